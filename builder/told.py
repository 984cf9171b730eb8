"""What the last build of each name told of its steps, kept in the home, and why a step of the next would run again."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from builder import steps
from builder.layers import LayerStore
from builder.plan import BuildPlan


@dataclass(frozen=True, slots=True)
class Explained:
    """One step of a plan: whether its layer is there, and if not, which input is another than last time."""

    layer: str
    step: str
    there: bool
    why: str


def remember(drawn: BuildPlan, home: Path) -> None:
    """Keep what its steps told."""
    told = [steps.told(step) for step in drawn.steps]
    write(home / "told" / f"{drawn.name}.json", json.dumps(told, sort_keys=True))


def explain(drawn: BuildPlan, store: LayerStore, home: Path) -> list[Explained]:
    """Each step: reused, or made because of which input."""
    before = _remembered(home, drawn.name)
    rows, broken = [], ""
    for number, (layer, step) in enumerate(zip(drawn.layers(), drawn.steps, strict=True)):
        there = store.has(layer)
        if there:
            why = "same input as when it was made"
        elif broken:
            why = f"the layer below it is another ({broken})"
        elif before is None:
            why = "it was never made here"
        else:
            why = steps.changed(before[number] if number < len(before) else None, steps.told(step))
        if not there and not broken:
            broken = f"step {number + 1}"
        rows.append(Explained(layer, f"{number + 1} {step.title()}", there, why))
    return rows


def _remembered(home: Path, name: str) -> list[dict[str, object]] | None:
    try:
        return json.loads((home / "told" / f"{name}.json").read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def write(path: Path, text: str) -> None:
    """The whole text or nothing, whoever reads or writes it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two builds may write it at once: each its own copy, the last one stays.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.new")
    aside.write_text(text)
    aside.replace(path)
