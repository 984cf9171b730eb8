"""`phx build` and `phx lock`: recipes into images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Terminal, home, layers_max, library

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Choose a parameter's value."),
]


def build(
    recipe: Annotated[str, typer.Argument(help="A name under recipes/, or a recipe's folder.")],
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
    as_json: Json = False,
) -> None:
    """Build an appliance image from a recipe; what is there already is not made again."""
    from builder import line
    from builder.packages.lock import difference

    terminal = Terminal()
    shop = line.Line(home(), library(), terminal.report, layers_max())
    flat = shop.load(folder_of(recipe), _pairs(set_ or []))
    if refresh and not (folder_of(recipe) / "recipe.lock").is_file():
        for name, was, new in difference(*shop.refresh(flat)):
            terminal.report(f"{name}: {was} -> {new}")
    facts, origin = shop.facts(flat, folder_of(recipe))
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
            from builder.errors import WorkFailed

            raise WorkFailed(
                f"built again, {', '.join(differ)} differ; the second build is kept in {shop.second}",
                "diffoscope shows what: apt-get install diffoscope-minimal",
            )
        terminal.say("built again in a folder of its own: every byte is the same")


def lock(
    recipe: Annotated[str, typer.Argument(help="A name under recipes/, or a recipe's folder.")],
    set_: Set = None,
    update: Annotated[
        bool, typer.Option("--update", help="Ask the mirror again; show what changes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fix a recipe's packages to exact versions, in recipe.lock beside it; builds then take just these."""
    from builder import line
    from builder.packages.lock import difference

    terminal = Terminal()
    shop = line.Line(home(), library(), terminal.report)
    flat = shop.load(folder_of(recipe), _pairs(set_ or []))
    old, new = shop.lock(flat, folder_of(recipe), update)
    changed = difference(old, new)
    count = sum(len(part) for part in new.packages)
    if as_json:
        terminal.json({"packages": count, "changed": changed, "epoch": new.epoch})
        return
    if changed and old is not None:
        terminal.table(("PACKAGE", "WAS", "IS"), changed)
    what = f"{len(changed)} changed" if old is not None else "written"
    terminal.say(f"{folder_of(recipe) / 'recipe.lock'}: {count} packages, {what}")


def folder_of(recipe: str) -> Path:
    """The recipe's folder: a path when it looks like one, else a name in the library. InputError if neither."""
    from builder.errors import InputError, Problem, close

    path = Path(recipe)
    if path.name == "recipe.yaml":
        path = path.parent
    if "/" in recipe or (path / "recipe.yaml").is_file():
        return path
    if (library() / recipe / "recipe.yaml").is_file():
        return library() / recipe
    names = [p.parent.name for p in library().glob("*/recipe.yaml")]
    raise InputError(Problem("", f"no recipe '{recipe}'", close(recipe, names)))


def _pairs(texts: list[str]) -> dict[str, str]:
    from builder.errors import InputError, Problem

    wrong = [t for t in texts if "=" not in t]
    if wrong:
        raise InputError(Problem("--set", f"'{t}' is not NAME=VALUE") for t in wrong)
    return dict(t.split("=", 1) for t in texts)
