"""`phx build` and `phx image`: recipes into images, and what the catalog holds."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Terminal, home, library

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
image = typer.Typer(no_args_is_help=True, help="What the catalog holds.")


def build(
    recipe: Annotated[str, typer.Argument(help="A name under recipes/, or a recipe's folder.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Choose a parameter's value."),
    ] = None,
    explain: Annotated[
        bool, typer.Option(help="Print the plan and what is reused; build nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build an appliance image from a recipe; what is there already is not made again."""
    from builder import assemble, disk, facts, plan
    from builder import recipe as recipes
    from builder.catalog import Catalog
    from builder.layers import LayerStore

    terminal = Terminal()
    flat = recipes.load(folder_of(recipe), library(), _pairs(set_ or []))
    drawn = plan.plan(flat, facts.gather(flat.suite))
    store = LayerStore(home() / "layers")
    catalog = Catalog(home() / "images")
    if explain:
        ids = drawn.layers()
        rows = [
            (
                f"{n}/{len(ids)}",
                layer[:12],
                "there" if store.has(layer) else "to make",
                step.title(),
            )
            for n, (layer, step) in enumerate(zip(ids, drawn.steps, strict=True), 1)
        ]
        if as_json:
            terminal.json({"plan": drawn.id, "layers": [r[1:] for r in rows]})
        else:
            terminal.table(("STEP", "LAYER", "IS", "DOES"), rows)
        return
    made = catalog.by_plan(drawn.id)
    fresh = made is None
    if made is None:
        caches = assemble.Caches(home() / "packages", home() / "lists", home() / "logs")
        layers = assemble.assemble(drawn, store, caches, terminal.report)
        now = datetime.datetime.now(datetime.UTC)
        made = catalog.add(lambda into: disk.make(drawn, layers, store, into, now, terminal.report))
    if as_json:
        terminal.json({"id": made.id, "name": made.name, "plan": made.plan, "built": fresh})
    elif fresh:
        terminal.say(f"{made.name} {made.version} is image {made.short}, {made.stored >> 20} MiB, "
                     f"{len(made.packages)} packages, kernel {made.kernel}")  # fmt: skip
    else:
        terminal.say(
            f"{made.name} is up to date: image {made.short} was made {made.built} from this very plan "
            f"({drawn.id[:12]}: same recipe, files, parameters and mirror)"
        )


@image.command("ls")
def image_ls(as_json: Json = False) -> None:
    """List the images, newest first."""
    from builder.catalog import Catalog

    terminal = Terminal()
    found = Catalog(home() / "images").images()
    if as_json:
        terminal.json([{k: getattr(m, k) for k in ("id", "name", "version", "kernel", "size", "stored", "built")}
                       for m in found])  # fmt: skip
        return
    terminal.table(
        ("IMAGE", "NAME", "VERSION", "KERNEL", "STORED", "BUILT"),
        [
            (m.short, m.name, m.version, m.kernel, f"{m.stored >> 20} MiB", m.built[:16])
            for m in found
        ],
    )


@image.command("show")
def image_show(
    name: Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")],
    as_json: Json = False,
) -> None:
    """Describe one image: what is in it and what it was made from."""
    from builder.catalog import Catalog

    terminal = Terminal()
    catalog = Catalog(home() / "images")
    m = catalog.get(name)
    if as_json:
        terminal.json({**asdict(m), "folder": str(catalog.folder(m))})
        return
    terminal.say(
        f"{m.name} {m.version}: {m.summary}\n"
        f"id        {m.id}\nfolder    {catalog.folder(m)}\nkernel    {m.kernel}\n"
        f"root      {m.size >> 20} MiB, {m.stored >> 20} MiB stored\nbuilt     {m.built}\n"
        f"plan      {m.plan}\nrecipe    {m.recipe_digest}\nlayers    {len(m.layers)}\n"
        + "".join(f"parameter {k} = {v}\n" for k, v in m.parameters)
        + f"packages  {len(m.packages)}:"
    )
    terminal.table(
        ("PACKAGE", "VERSION", "SOURCE"), [(p.name, p.version, p.source) for p in m.packages]
    )


@image.command("rm")
def image_rm(
    name: Annotated[str, typer.Argument(help="Name or the first digits of its id.")],
) -> None:
    """Take an image out of the catalog. Clusters that run from it keep what they have open."""
    from builder.catalog import Catalog

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    catalog.remove(found)
    Terminal().say(f"{found.name} {found.short} removed")


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
