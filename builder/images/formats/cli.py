"""`phx image export`: an image in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.terminal import Terminal, home


def export(
    name: Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")],
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    form: Annotated[
        str, typer.Option("--format", help="raw, qcow2, vmdk, vhd; tar, oci, squashfs or erofs.")
    ] = "qcow2",
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
    from builder.images.formats.export import export
    from builder.layers import LayerStore

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    export(found, catalog.folder(found), LayerStore(home() / "layers"), form, file, bootable)
    what = f"{file.stat().st_size >> 20} MiB as {form}" + (", boots itself" if bootable else "")
    Terminal().say(f"{found.name} {found.short} is {file}, {what}")
