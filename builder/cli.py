"""`phx build` and `phx image`: recipes into images, and what the catalog holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Terminal, home, library

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Choose a parameter's value."),
]
image = typer.Typer(no_args_is_help=True, help="What the catalog holds.")


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
    from builder.lock import difference

    terminal = Terminal()
    shop = line.Line(home(), library(), terminal.report)
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
    from builder.lock import difference

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


@image.command("export")
def image_export(
    name: Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")],
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    form: Annotated[str, typer.Option("--format", help="raw, qcow2, vmdk, vhd or tar.")] = "qcow2",
) -> None:
    """Write an image's root filesystem in another format."""
    from builder.catalog import Catalog
    from builder.export import export
    from builder.layers import LayerStore

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    export(found, catalog.folder(found), LayerStore(home() / "layers"), form, file)
    Terminal().say(
        f"{found.name} {found.short} is {file}, {file.stat().st_size >> 20} MiB as {form}"
    )


@image.command("prune")
def image_prune(
    keep: Annotated[str, typer.Option(help="Layers used this recently stay in any case.")] = "1d",
    as_json: Json = False,
) -> None:
    """Remove images that a newer one replaced and nobody uses, and layers of no image."""
    from builder import line, units
    from builder.errors import InputError, Problem

    terminal = Terminal()
    try:
        seconds = units.duration(keep)
    except ValueError as cause:
        raise InputError(Problem("--keep", *str(cause).split("; "))) from None
    images, layers = line.Line(home(), library(), terminal.report).prune(seconds)
    if as_json:
        terminal.json({"images": [m.id for m in images], "layers": layers})
    else:
        terminal.say(f"{len(images)} images and {layers} layers removed")


@image.command("rm")
def image_rm(
    name: Annotated[str, typer.Argument(help="Name or the first digits of its id.")],
) -> None:
    """Take an image out of the catalog, unless a cluster uses it."""
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
