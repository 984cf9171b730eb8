"""`phx build` and `phx lock`: recipes into images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from builder.terminal import Terminal, home, layers_max, library

if TYPE_CHECKING:
    from builder.choice import Chosen
    from builder.images.manifest import Manifest
    from builder.language.flat import Flat
    from builder.line import Line
    from builder.secrets import Secret

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Choose a parameter's value."),
]


Recipes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE...",
        help="Names under recipes/, or recipes' folders; RECIPE:VARIANT for one variant.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every recipe under recipes/.")]


def build(
    recipes: Recipes = None,
    all_: All = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Recipes to build at once: one for each core."),
    ] = None,
    set_: Set = None,
    explain: Annotated[
        bool, typer.Option(help="Print each step and why it would run; build nothing.")
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option(help="Ask the mirror again for the newest packages (without recipe.lock)."),
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Build it all again in a folder of its own and compare the bytes.")
    ] = False,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME=file:PATH|env:VARIABLE",
            help="A secret that a run step asks for; it is never kept.",
        ),
    ] = None,
    shell: Annotated[
        bool,
        typer.Option(
            "--shell",
            help="Open a shell where a step fails; --shell=N in the tree that step N finds, instead of a build.",
        ),
    ] = False,
    shell_at: Annotated[int, typer.Option("--shell-at", hidden=True, metavar="N")] = 0,
    as_json: Json = False,
) -> None:
    """Build an appliance image from a recipe; what is there already is not made again."""
    from builder import line, secrets
    from builder.choice import asked, pairs
    from builder.packages.lock import difference
    from builder.packages.lock import found as found_lock

    terminal = Terminal()
    images = asked(recipes, all_, library())
    known = secrets.read(secret or [], os.environ)
    if all_ or len(images) > 1:
        single = {"--explain": explain, "--check": check, "--shell": shell or bool(shell_at)}
        _one_at_a_time(single)
        _build_many(images, jobs, pairs(set_ or []), refresh, known, as_json)
        return
    [image] = images
    shop = line.Line(home(), library(), terminal.report, layers_max(), known, shell)
    flat = shop.load(image, pairs(set_ or []))
    _asked_for(known, [flat])
    if refresh and not found_lock(image.folder, flat):
        for name, was, new in difference(*shop.locks.refresh(flat)):
            terminal.report(f"{name}: {was} -> {new}")
    facts, origin = shop.locks.facts(flat, image.folder)
    if explain:
        rows = shop.explain(flat, facts)
        if as_json:
            terminal.json(
                [{"layer": r.layer, "step": r.step, "there": r.there, "why": r.why} for r in rows]
            )
        else:
            terminal.table(
                ("LAYER", "STEP", "WILL BE", "BECAUSE"),
                [(r.layer[:12], r.step, "reused" if r.there else "made", r.why) for r in rows],
            )
            terminal.say(f"packages: {origin}")
        return
    if shell_at:
        terminal.clear()
        raise typer.Exit(shop.enter(flat, facts, shell_at))
    made, fresh = shop.build(flat, facts)
    if as_json:
        terminal.json({"id": made.id, "name": made.name, "plan": made.plan, "built": fresh})
    elif fresh:
        terminal.say(
            f"{made.name} {made.version} is image {made.short}, {made.stored >> 20} MiB, "
            f"{len(made.packages)} packages, kernel {made.kernel}"
        )
    else:
        terminal.say(
            f"{made.name} is up to date: image {made.short} was made {made.built} from this very plan "
            f"({made.plan[:12]}: same steps, files and packages)"
        )
    if check:
        differ = shop.check(flat, facts, made)
        if differ:
            _differs(terminal, shop, made, differ)
        terminal.say("built again in a folder of its own: every byte is the same")


def _asked_for(secrets: Mapping[str, Secret], flats: Iterable[Flat]) -> None:
    """InputError for a secret that no step of these recipes asks for: its name may be mistyped."""
    from builder.errors import InputError, Problem, close

    asked = {n for f in flats for part in f.parts for lines in part.run for n, _ in lines.secrets}
    wrong = sorted(secrets.keys() - asked)
    if wrong:
        raise InputError(
            Problem(f"--secret {n}", "no step asks for this secret", close(n, asked)) for n in wrong
        )


def _differs(terminal: Terminal, shop: Line, made: Manifest, files: list[str]) -> NoReturn:
    """Say what differs between two builds of one plan, and end."""
    import shutil

    from builder.errors import WorkFailed

    terminal.say(shop.differing(made))
    hint = "what differs comes from the steps named above"
    if shutil.which("diffoscope") is None:
        hint += "; apt-get install diffoscope-minimal shows how files differ"
    raise WorkFailed(
        f"built again, {', '.join(files)} differ; the second build is kept in {shop.second}", hint
    )


def _one_at_a_time(options: dict[str, bool]) -> None:
    from builder.errors import InputError, Problem

    wrong = [name for name, given in options.items() if given]
    if wrong:
        hint = "name one; of a recipe with a matrix, RECIPE:VARIANT"
        raise InputError(Problem(name, "is for one recipe at a time", hint) for name in wrong)


def _build_many(
    images: list[Chosen], jobs: int | None, given: dict[str, str], refresh: bool,
    secrets: Mapping[str, Secret], as_json: bool,
) -> None:  # fmt: skip
    """Build all of them, say of each how it ended, and end with 1 if any was not built."""
    from builder import batch, line
    from builder.board import Board
    from builder.errors import explain

    terminal, board = Terminal(), Board()
    shop = line.Line(home(), library(), terminal.report, layers_max(), secrets)
    drawn, failed = shop.draw(images, given, refresh)
    if not failed:
        _asked_for(secrets, (flat for flat, _ in drawn.values()))

    def make(name: str, layered: Callable[[], None]) -> tuple[Manifest, bool]:
        own = line.Line(home(), library(), board.report(name), layers_max(), secrets)
        return own.build(*drawn[name], layered)

    def ended(result: batch.Result) -> None:
        if result.image is not None:
            text = f"{result.what}, image {result.image.short}"
        elif result.error is not None:
            text = f"failed: {result.error.what}"
        else:
            text = f"not built because {result.because} failed"
        board.end(result.name, text)

    ancestors = {
        name: [part.recipe for part in flat.parts[:-1]] for name, (flat, _) in drawn.items()
    }
    for result in failed:
        ended(result)
    try:
        built = batch.build(batch.in_order(ancestors), jobs or batch.at_once(), make, ended)
    finally:
        board.close()
    results = [*built, *failed]
    for result in results:
        if result.error is not None:
            terminal.error(f"{result.name}:\n{explain(result.error)}\n")
    if as_json:
        terminal.json([
            {"recipe": r.name, "result": r.what, "image": r.image.id if r.image else None,
             "seconds": round(r.seconds, 1), "because": r.because or None,
             "error": explain(r.error) if r.error else None}
            for r in results
        ])  # fmt: skip
    else:
        terminal.table(
            ("RECIPE", "IMAGE", "RESULT", "SECONDS"),
            [
                (r.name, r.image.short if r.image else "-",
                 f"{r.what} because {r.because} failed" if r.because else r.what, f"{r.seconds:.1f}")
                for r in results
            ],
        )  # fmt: skip
    if not all(r.image for r in results):
        raise typer.Exit(1)


def lock(
    recipes: Recipes = None,
    all_: All = False,
    set_: Set = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Ask again; show what changes. Names after it: only these packages and what they need.",
        ),
    ] = False,
    packages: Annotated[
        list[str] | None, typer.Option("--package", hidden=True, metavar="PACKAGE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fix a recipe's packages to exact versions, in recipe.lock beside it; builds then take just these."""
    from builder import line
    from builder.choice import asked, pairs
    from builder.packages.lock import beside, difference

    terminal = Terminal()
    shop, given = line.Line(home(), library(), terminal.report), pairs(set_ or [])
    flats = [(i.folder, shop.load(i, given)) for i in asked(recipes, all_, library())]
    told = []
    for folder, flat in flats:
        old, new = shop.locks.lock(flat, folder, update, packages or [])
        changed = difference(old, new)
        count = sum(len(part) for part in (*new.packages, *new.wheels))
        told.append(
            {"recipe": flat.name, "packages": count, "changed": changed, "epoch": new.epoch}
        )
        if as_json:
            continue
        if changed and old is not None:
            terminal.table(("PACKAGE", "WAS", "IS"), changed)
        what = f"{len(changed)} changed" if old is not None else "written"
        terminal.say(f"{beside(folder, flat)}: {count} packages, {what}")
    if as_json:
        terminal.json(told if all_ or len(told) > 1 else told[0])
