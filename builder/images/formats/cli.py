"""`phx image export`: an image in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Terminal, home


def export(
    name: Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")],
    file: Annotated[
        Path, typer.Argument(help="The file to write; or a folder, for the recipe's formats.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="raw, qcow2 (at first), vmdk, vhd; tar, oci, squashfs, erofs."
        ),
    ] = None,
    bootable: Annotated[
        bool,
        typer.Option(
            "--bootable",
            help="A partitioned disk with GRUB (BIOS and UEFI), not a bare filesystem.",
        ),
    ] = False,
) -> None:
    """Write an image's root filesystem in another format; the same bytes each time."""
    from builder.images.catalog import Catalog
    from builder.images.formats.export import BOOTABLE, export, wanted
    from builder.layers import LayerStore

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    store, terminal = LayerStore(home() / "layers"), Terminal()
    for kind, into in wanted(found, form, file, bootable):
        boots, form = kind.startswith(BOOTABLE), kind.removeprefix(BOOTABLE)
        export(found, catalog.folder(found), store, form, into, boots)
        what = f"{into.stat().st_size >> 20} MiB as {form}" + (", boots itself" if boots else "")
        terminal.say(f"{found.name} {found.short} is {into}, {what}")
