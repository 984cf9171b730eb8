"""`phx image`: what the catalog holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from builder.cli import Json
from builder.images.formats.cli import export
from builder.images.inside import cli as inside
from builder.images.sbom.cli import provenance, sbom
from builder.terminal import Terminal, home, library

if TYPE_CHECKING:
    from builder.images.manifest import Manifest

image = typer.Typer(no_args_is_help=True, help="What the catalog holds.")


@image.command("ls")
def list_(
    name: Annotated[str | None, typer.Argument(help="An image, to see what is in it.")] = None,
    path: Annotated[str, typer.Argument(help="A folder in it.")] = "/",
    as_json: Json = False,
) -> None:
    """List the images, newest first; or a folder of one."""
    if name is not None:
        inside.list_inside(name, path, as_json)
        return
    from builder.images.catalog import Catalog
    from builder.testing import record

    terminal, now = Terminal(), time.time()
    catalog = Catalog(home() / "images")
    found = catalog.images()
    tests = {m.id: record.read(catalog.folder(m)) for m in found}
    if as_json:
        keys = ("id", "name", "version", "kernel", "size", "stored", "built", "max_age")
        terminal.json([{k: getattr(m, k) for k in keys} | {"age": int(m.age(now)), "aged": m.aged(now)}
                       | {"tests": {kind: asdict(ran) for kind, ran in tests[m.id].items()}}
                       for m in found])  # fmt: skip
        return
    terminal.table(
        ("IMAGE", "NAME", "VERSION", "KERNEL", "STORED", "BUILT", "AGE", "TESTED"),
        [
            (
                m.short,
                m.name,
                m.version,
                m.kernel,
                f"{m.stored >> 20} MiB",
                m.built[:16],
                _age(m, now),
                record.shown(tests[m.id]),
            )
            for m in found
        ],
    )


def _age(m: Manifest, now: float) -> str:
    return f"{m.age(now) // 86400:.0f}d" + (", aged" if m.aged(now) else "")


@image.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")],
    as_json: Json = False,
) -> None:
    """Describe one image: what is in it and what it was made from."""
    from builder import units
    from builder.images.catalog import Catalog

    terminal = Terminal()
    catalog = Catalog(home() / "images")
    m = catalog.get(name)
    now = time.time()
    if as_json:
        terminal.json({**asdict(m), "folder": str(catalog.folder(m)), "aged": m.aged(now)})
        return
    limit = f" of at most {units.show_duration(m.max_age)}" if m.max_age else ""
    remedy = f": phx build {m.name} --refresh takes newer packages" if m.aged(now) else ""
    terminal.say(
        f"{m.name} {m.version}: {m.summary}\n"
        f"id        {m.id}\nfolder    {catalog.folder(m)}\nkernel    {m.kernel}\n"
        f"root      {m.size >> 20} MiB, {m.stored >> 20} MiB stored\nbuilt     {m.built}\n"
        f"age       {_age(m, now)}{limit}{remedy}\n"
        f"can       {', '.join(m.capabilities) or '-'}\n"
        f"context   applied by {_APPLIES[m.contextualization]}\n"
        f"{_origin(m)}"
        + "".join(f"parameter {k} = {v}\n" for k, v in m.parameters)
        + f"packages  {len(m.packages)}:"
    )
    terminal.table(
        ("PACKAGE", "VERSION", "SOURCE"),
        [
            *((p.name, p.version, p.source) for p in m.packages),
            *((w.name, w.version, "pip") for w in m.wheels),
        ],
    )


def _origin(m: Manifest) -> str:
    """What it was made from, line by line."""
    if m.origin is None:
        return f"plan      {m.plan}\nrecipe    {m.recipe_digest}\nlayers    {len(m.layers)}\n"
    if m.origin.how == "import":
        told = f"imported  {m.origin.file}, {m.origin.form}, sha256 {m.origin.of}\n"
    else:
        told = f"made of   image {m.origin.of}\n"
    return told + "".join(f"          {act}\n" for act in m.origin.acts)


_APPLIES = {
    "agent": "our agent",
    "cloud-init": "cloud-init, which brings our agent along",
    "none": "nobody in it: written into the node's disk before it boots",
}


image.command("export")(export)


@image.command("prune")
def prune(
    keep: Annotated[str, typer.Option(help="Layers used this recently stay in any case.")] = "1d",
    max_size: Annotated[
        str | None,
        typer.Option(
            help="Then remove the least recently used layers until the rest takes no more."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove images that a newer one replaced and nobody uses, and layers of no image."""
    from builder import line, units

    terminal = Terminal()
    seconds = _units(units.duration, "--keep", keep)
    limit = _units(units.size, "--max-size", max_size) if max_size is not None else None
    images, layers = line.Line(home(), library(), terminal.report).prune(seconds, limit)
    freed = sum(m.stored for m in images) + sum(layer.size for layer in layers)
    if as_json:
        terminal.json({"images": [m.id for m in images], "layers": len(layers), "bytes": freed})
    else:
        terminal.say(
            f"{len(images)} images and {len(layers)} layers removed, {freed >> 20} MiB freed"
        )


def _units(read: Callable[[object], int], option: str, text: str) -> int:
    from builder.errors import InputError, Problem

    try:
        return read(text)
    except ValueError as cause:
        raise InputError(Problem(option, *str(cause).split("; "))) from None


@image.command("fsck")
def fsck(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: trees, images, fetched packages.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move what is wrong aside; the next build makes it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check all that is kept: layers, images, locks, fetched packages; ends with 1 if something is wrong."""
    from builder import fsck

    terminal = Terminal()
    found = fsck.examine(home(), deep, terminal.report)
    moved = fsck.repair(home(), found) if repair else {}
    if as_json:
        terminal.json([{"place": str(f.place), "what": f.what, "remedy": f.remedy, "wrong": f.wrong,
                        "moved": str(moved[f.place]) if f.place in moved else None}
                       for f in found])  # fmt: skip
    elif not found:
        terminal.say(f"nothing wrong in {home()}")
    else:
        terminal.table(
            ("PLACE", "WHAT", "REMEDY"),
            [
                (f.place, f.what, f"moved to {moved[f.place]}" if f.place in moved else f.remedy)
                for f in found
            ],
        )
    if any(f.wrong and f.place not in moved for f in found):
        raise typer.Exit(1)


@image.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="Name or the first digits of its id.")],
) -> None:
    """Take an image out of the catalog, unless a cluster uses it."""
    from builder.images.catalog import Catalog

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    catalog.remove(found)
    Terminal().say(f"{found.name} {found.short} removed")


image.command("sbom")(sbom)
image.command("provenance")(provenance)
image.command("import")(inside.import_)
image.command("cat")(inside.cat)
image.command("cp")(inside.copy)
image.command("customize")(inside.customize)
