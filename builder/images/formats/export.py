"""An image of the catalog written in another format, whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Literal, assert_never, cast, get_args

from builder.chamber import Chamber
from builder.errors import InputError, Problem, close
from builder.images.disk import seed
from builder.images.formats import archives, bootable, containers, filesystems
from builder.images.manifest import WHOLE, Manifest
from builder.layers import LayerStore

TIMEOUT = 1800.0
Container = Literal["raw", "qcow2", "vmdk", "vhd"]
"""Hold a disk."""
OfTree = Literal["tar", "oci", "squashfs", "erofs"]
"""Made from the tree, so from the layers."""

BOOTABLE = "bootable-"
"""Before the name of a format that holds a disk: with partitions, and something that boots it."""

REFUSED = {
    "btrfs": "mkfs.btrfs writes random UUIDs and the clock's times, whatever it is told",
    "xfs": "mkfs.xfs fills a filesystem from a list that holds no times, attributes and hard links",
}
"""Formats that people ask for, and why there is none."""


def wanted(
    image: Manifest, form: str | None, into: Path, boots: bool = False
) -> list[tuple[str, Path]]:
    """(format, file) of all that is to be written; qcow2 where neither the caller nor the recipe says what.

    into  a file, or a folder for every format that the recipe names
    """
    if form is None and into.is_dir():
        stem = f"{image.name}-{image.version}"
        names = image.formats or ("qcow2",)
        return [
            (n, into / f"{stem}{'-bootable' if BOOTABLE in n else ''}.{n.removeprefix(BOOTABLE)}")
            for n in names
        ]
    return [((BOOTABLE if boots else "") + (form or "qcow2"), into)]


def export(
    image: Manifest, folder: Path, store: LayerStore, form: str, into: Path, boots: bool = False
) -> None:
    """Write the image's root filesystem to the file `into`.

    folder  the image's folder in the catalog
    store   the layers, which all but containers are made from
    boots   write a partitioned disk that boots itself instead; containers only
    Raises InputError for an unknown format, a Xen host that shall boot by itself, a file that is there already, layers
    that are gone; WorkFailed, EnvironmentLacks for a program that is missing.
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
    if boots and form not in get_args(Container):
        hint = f"with --bootable: {', '.join(get_args(Container))}"
        raise InputError(Problem("--bootable", f"{form} holds no disk", hint))
    if boots and image.origin is not None and image.mounts != WHOLE:
        what = f"{image.name} has partitions of its own: it boots as they say"
        raise InputError(Problem("--bootable", what, "leave --bootable out"))
    if boots and image.hypervisor is not None:
        # Its dom0 has the drivers and the seed of the machine that phx makes for it, of no other.
        what = f"{image.name} is a Xen host, and GRUB on a disk of ours starts no hypervisor"
        raise InputError(Problem("--bootable", what, "phx host up --xen boots it"))
    if into.exists():
        raise InputError(Problem("", f"{into} is there already", "name another file, or remove it"))
    if not into.parent.is_dir():
        raise InputError(Problem("", f"there is no folder {into.parent}"))
    aside = into.with_name(f".{into.name}.new").absolute()
    try:
        if form in get_args(Container):
            _from_disk(image, folder, cast(Container, form), aside, boots)
        else:
            _from_tree(image, store, cast(OfTree, form), aside)
        aside.replace(into)
    finally:
        aside.unlink(missing_ok=True)


def _from_disk(image: Manifest, folder: Path, form: Container, aside: Path, boots: bool) -> None:
    disk, identity = folder / "disk.raw", seed(image.plan)
    if not boots:
        containers.convert(disk, form, aside, identity, image.epoch)
    elif form == "raw":
        bootable.disk(image, folder, aside)
    else:
        disk = aside.with_name(f"{aside.name}.disk")
        try:
            bootable.disk(image, folder, disk)
            containers.convert(disk, form, aside, uuid.uuid5(identity, "boots"), image.epoch)
        finally:
            disk.unlink(missing_ok=True)


def _from_tree(image: Manifest, store: LayerStore, form: OfTree, aside: Path) -> None:
    if not image.layers:
        what = f"{image.name} {image.short} was not built from layers: there is no {form} of it"
        raise InputError(
            Problem("", what, f"its disk is there as {', '.join(get_args(Container))}")
        )
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
            chamber.outside(filesystems.squashfs_command(image.epoch, aside), timeout=TIMEOUT)
        case "erofs":
            command = filesystems.erofs_command(image.epoch, seed(image.plan), aside)
            chamber.outside(command, timeout=TIMEOUT)
        case _:
            assert_never(form)
