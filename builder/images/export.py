"""An image of the catalog written in another format, for hypervisors and tools that are not ours.

qcow2 and tar come out the same bytes each time. VHD carries the time and a random id in its footer (images.md), VMDK a
random id: they are for use, not for comparing.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal, get_args

from builder.errors import InputError, Problem, close
from builder.images.manifest import Manifest
from builder.layers import LayerStore
from builder.run import run

Format = Literal["raw", "qcow2", "vmdk", "vhd", "tar"]
TIMEOUT = 1800.0

_QEMU: dict[str, list[str]] = {
    "raw": ["-O", "raw"],
    "qcow2": ["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
    "vmdk": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "vhd": ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
}


def export(image: Manifest, folder: Path, store: LayerStore, form: str, into: Path) -> None:
    """Write the image's root filesystem to the file `into`, whole or not at all.

    folder  the image's folder in the catalog
    store   the layers, which a tar is made from
    Raises InputError for an unknown format or a file that is there already, WorkFailed.
    """
    if form not in get_args(Format):
        raise InputError(
            Problem("--format", f"unknown format '{form}'", close(form, get_args(Format)))
        )
    if into.exists():
        raise InputError(Problem("", f"{into} is there already", "name another file, or remove it"))
    if not into.parent.is_dir():
        raise InputError(Problem("", f"there is no folder {into.parent}"))
    aside = into.with_name(f".{into.name}.new").absolute()
    try:
        if form == "tar":
            missing = [layer for layer in image.layers if not store.has(layer)]
            if missing:
                what = f"{len(missing)} layers of {image.name} are gone"
                raise InputError(Problem("", what, f"phx build {image.name} makes them again"))
            with store.begin(image.layers) as chamber:
                chamber.outside(
                    # tar's own names of its extended headers hold the number of its process.
                    "tar --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime "
                    f"--sort=name --numeric-owner --xattrs --mtime=@{image.epoch} --clamp-mtime "
                    f'-C "$m" -cf {shlex.quote(str(aside))} .',
                    timeout=TIMEOUT,
                )
        else:
            disk = str(folder / "disk.raw")
            run(
                ["qemu-img", "convert", "-f", "raw", *_QEMU[form], disk, str(aside)],
                timeout=TIMEOUT,
            )
        aside.replace(into)
    finally:
        aside.unlink(missing_ok=True)
