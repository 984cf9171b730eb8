"""An image of the catalog written in another format, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_never, cast, get_args

from builder.chamber import Chamber
from builder.errors import InputError, Problem, close
from builder.images.disk import seed
from builder.images.formats import archives, containers, filesystems
from builder.images.manifest import Manifest
from builder.layers import LayerStore

Container = Literal["raw", "qcow2", "vmdk", "vhd"]
"""Hold a disk."""
OfTree = Literal["tar", "oci", "squashfs", "erofs"]
"""Made from the tree, so from the layers."""

REFUSED = {
    "xfs": "mkfs.xfs fills a filesystem from a list that holds no times, attributes and hard links",
}
"""Formats that people ask for, and why there is none."""


def export(image: Manifest, folder: Path, store: LayerStore, form: str, into: Path) -> None:
    """Write the image's root filesystem to the file `into`.

    folder  the image's folder in the catalog
    store   the layers, which all but containers are made from
    Raises InputError for an unknown format, a file that is there already, layers that are gone; WorkFailed,
    EnvironmentLacks for a program that is missing.
    """
    known = [*get_args(Container), *get_args(OfTree)]
    if form in REFUSED:
        raise InputError(
            Problem(
                "--format", f"{form} is not written: {REFUSED[form]}", f"known: {', '.join(known)}"
            )
        )
    if form not in known:
        raise InputError(Problem("--format", f"unknown format '{form}'", close(form, known)))
    if into.exists():
        raise InputError(Problem("", f"{into} is there already", "name another file, or remove it"))
    if not into.parent.is_dir():
        raise InputError(Problem("", f"there is no folder {into.parent}"))
    aside = into.with_name(f".{into.name}.new").absolute()
    try:
        if form in get_args(Container):
            containers.convert(folder / "disk.raw", form, aside, seed(image.plan), image.epoch)
        else:
            _from_tree(image, store, cast(OfTree, form), aside)
        aside.replace(into)
    finally:
        aside.unlink(missing_ok=True)


def _from_tree(image: Manifest, store: LayerStore, form: OfTree, aside: Path) -> None:
    with store.using(image.layers):
        missing = [layer for layer in image.layers if not store.has(layer)]
        if missing:
            what = f"{len(missing)} layers of {image.name} {image.short} are gone"
            hint = f"phx image rm {image.short}; phx build {image.name} makes both again"
            raise InputError(Problem("", what, hint))
        with store.begin(image.layers) as chamber:
            _write(image, chamber, form, aside)


def _write(image: Manifest, chamber: Chamber, form: OfTree, aside: Path) -> None:
    match form:
        case "tar":
            archives.tar(chamber, image.epoch, aside)
        case "oci":
            archives.oci(chamber, image, aside)
        case "squashfs":
            filesystems.squashfs(chamber, image.epoch, aside)
        case "erofs":
            filesystems.erofs(chamber, image.epoch, seed(image.plan), aside)
        case _:
            assert_never(form)
