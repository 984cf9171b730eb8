"""Building: the base appliance from a warm package cache, beside mmdebstrap from the very same packages.

The peer makes a tree and packs it as a tar, as it does by default; ours makes a tree, an initrd, a bootable ext4 image,
its digests and its manifest, and runs base's static tests. CPU seconds, of all processes, are there because wall
seconds tell of a machine's other work as well.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder import acts, line, plan
from builder.choice import Chosen
from builder.layers import LayerStore
from builder.steps import Bootstrap
from builder.terminal import Terminal, home, library
from tests.bench import fresh_home, phx

RECIPE = """name: changing
version: '1'
summary: for the bench
from: base
packages: [{package}]
run:
  - name: the last step
    script: echo {line} > /etc/line
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians, in seconds. `cpu` counts user and system time of every process that ended."""

    wall: float
    cpu: float


def cost(act: Callable[[], object], runs: int) -> Cost:
    walls, cpus = [], []
    for _ in range(runs):
        before, started = os.times(), time.monotonic()
        act()
        walls.append(time.monotonic() - started)
        after = os.times()
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
    return Cost(statistics.median(walls), statistics.median(cpus))


def measure(terminal: Terminal) -> None:
    """The peer once, ours as often as it is short."""
    terminal.report("fetching packages")
    fresh = fresh_home("assembly")
    rows: list[tuple[str, Cost, float | None]] = []
    terminal.report("mmdebstrap, once")
    rows.append(("mmdebstrap, to a tar", cost(lambda: _peer(terminal, fresh), 1), None))
    terminal.report("ours, cold, three times")
    homes = [fresh_home(f"assembly/{n}") for n in range(3)]
    cold = iter(homes)
    rows.append((
        "phx build base, to a bootable image",
        cost(lambda: phx("build", "base", PHX_HOME=str(next(cold))), 3), 20,
    ))  # fmt: skip
    terminal.report("a change of the last step, a package more, nothing: five times each")
    here, recipes = homes[0], fresh / "recipes"
    recipes.mkdir()
    (recipes / "base").symlink_to(library() / "base")

    def build(package: str, word: str) -> None:
        (recipes / "changing").mkdir(exist_ok=True)
        text = RECIPE.format(package=package, line=word)
        Path(recipes / "changing" / "recipe.yaml").write_text(text)
        phx("build", "changing", PHX_RECIPES=str(recipes), PHX_HOME=str(here))

    build("sl", "first")
    build("hello", "first")
    words = iter(f"word {n}" for n in range(100))
    changed = cost(lambda: build("hello", next(words)), 5)
    rows.append(("one line changed in the last step", changed, 2))

    def add() -> None:
        for layer in (here / "layers").glob("*/layer.json"):
            if '"install sl"' in layer.read_text():
                shutil.rmtree(layer.parent)
        build("sl", next(words))

    rows.append(("one small package added", cost(add, 5), 5))
    rows.append((
        "nothing changed",
        cost(lambda: phx("build", "base", PHX_HOME=str(here)), 5), 0.3,
    ))  # fmt: skip
    shutil.rmtree(fresh)
    terminal.table(
        ("WHAT", "SECONDS", "CPU SECONDS", "TARGET"),
        [
            (what, f"{spent.wall:6.2f}", f"{spent.cpu:6.2f}", f"{limit:g}" if limit else "-")
            for what, spent, limit in rows
        ],
    )


def _peer(terminal: Terminal, fresh: Path) -> None:
    shop = line.Line(home(), library(), terminal.report)
    flat = shop.load(Chosen("base", library() / "base"), {})
    found, _ = shop.locks.facts(flat, library() / "base")
    step = plan.plan(flat, found).steps[0]
    assert isinstance(step, Bootstrap)
    store = LayerStore(fresh / "peer")
    with store.begin(()) as chamber:
        acts.oracle(step, chamber, shop.caches, fresh / "log")
        chamber.outside(f'tar -C "$m" -cf {fresh}/peer.tar .', timeout=600)
