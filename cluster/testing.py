"""`phx test`: appliances tested, their trees at once and their guests after a boot."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.cli import All, Json, Recipes, Set
from builder.terminal import Terminal, home, layers_max, library

if TYPE_CHECKING:
    from builder.choice import Chosen
    from builder.errors import PhiloxeniaError
    from builder.images.manifest import Manifest
    from builder.language.flat import Flat
    from builder.line import Line
    from builder.plan import Facts
    from builder.testing.session import Outcome


@dataclass(frozen=True, slots=True)
class _Tested:
    """One recipe: its image, if there is one, what its tests said, and what kept them from running."""

    recipe: str
    image: Manifest | None
    outcomes: tuple[Outcome, ...]
    seconds: float
    error: PhiloxeniaError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and not any(o.failed for o in self.outcomes)

    def told(self, kind: str) -> str:
        return next((o.told for o in self.outcomes if o.kind == kind and o.cases), "-")


def test(
    recipes: Recipes = None,
    all_: All = False,
    set_: Set = None,
    static_only: Annotated[
        bool, typer.Option("--static-only", help="Only the tests that need no guest.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write what was found to a JUnit file.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Boot on this host; else on one of its own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test appliances as their recipes say: on the tree, then on a guest. Ends with 1 if a test failed."""
    from builder.choice import asked, pairs
    from builder.errors import explain
    from builder.line import Line
    from builder.testing import session

    terminal = Terminal()
    shop = Line(home(), library(), terminal.report, layers_max())
    given, done = pairs(set_ or []), []
    for chosen in asked(recipes, all_, library()):
        done.append(_test(shop, chosen, given, static_only, host))
    outcomes = [o for tested in done for o in tested.outcomes]
    if junit is not None:
        junit.write_text(session.junit(outcomes))
    for tested in done:
        if tested.error is not None:
            terminal.error(f"{tested.recipe}:\n{explain(tested.error)}\n")
    if shown := session.failures(outcomes):
        terminal.error(shown + "\n")
    if as_json:
        terminal.json([
            {"recipe": t.recipe, "image": t.image.id if t.image else None, "ok": t.ok,
             "seconds": round(t.seconds, 1), "error": explain(t.error) if t.error else None,
             "tests": [{"kind": o.kind, **asdict(case)} for o in t.outcomes for case in o.cases]}
            for t in done
        ])  # fmt: skip
    else:
        terminal.table(
            ("RECIPE", "IMAGE", "STATIC", "BOOT", "SECONDS"),
            [
                (t.recipe, t.image.short if t.image else "-",
                 *("not run" if t.error and not t.outcomes else t.told(kind)
                   for kind in ("static", "boot")), f"{t.seconds:.1f}")
                for t in done
            ],
        )  # fmt: skip
    if not all(t.ok for t in done):
        raise typer.Exit(1)


def _test(
    shop: Line, chosen: Chosen, given: dict[str, str], static_only: bool, host: str | None
) -> _Tested:
    from builder.errors import PhiloxeniaError

    started = time.monotonic()
    outcomes: list[Outcome] = []
    image: list[Manifest] = []
    error = None
    try:
        flat = shop.load(chosen, given)
        _both(
            shop, flat, shop.locks.facts(flat, chosen.folder)[0], static_only, host, outcomes, image
        )
    except PhiloxeniaError as cause:
        error = cause
    seconds = time.monotonic() - started
    return _Tested(chosen.name, image[0] if image else None, tuple(outcomes), seconds, error)


def _both(
    shop: Line, flat: Flat, facts: Facts, static_only: bool, host: str | None,
    outcomes: list[Outcome], image: list[Manifest],
) -> None:  # fmt: skip
    """Static tests, the image if they hold, boot tests; what was found so far is in the lists whatever happens."""
    from builder.testing import gate

    static = shop.test(flat, facts)
    outcomes.append(static)
    if static.failed:
        return
    made, _ = shop.build(flat, facts, proven=static)
    image.append(made)
    if static_only or not static.boot:
        return
    from cluster import trial
    from cluster.site import Site

    booted = trial.boot(Site(shop.home), flat, made, static.peer, host, shop.report)
    outcomes.append(booted)
    gate.note(flat, booted, shop.catalog.folder(made))
