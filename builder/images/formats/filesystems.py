"""A tree as a filesystem that is read only: squashfs or erofs.

Both programs sort names by themselves. They keep every extended attribute but access lists, so that a machine's own
labels (SELinux) would be in what it writes; no Debian machine has any unless told to.
"""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path

from builder.chamber import Chamber
from builder.images.formats.archives import TIMEOUT
from builder.run import program


def squashfs(chamber: Chamber, epoch: int, into: Path) -> None:
    """zstd at a level that takes 3 s for base. No time in it is after the epoch, which the environment tells it."""
    make = program("mksquashfs", "squashfs-tools")
    chamber.outside(
        f'{make} "$m" {shlex.quote(str(into))} -noappend -no-progress -quiet '
        "-comp zstd -Xcompression-level 6 -b 256K",
        timeout=TIMEOUT, epoch=epoch,
    )  # fmt: skip


def erofs(chamber: Chamber, epoch: int, identity: uuid.UUID, into: Path) -> None:
    """Every time in it is the epoch: Debian 12's mkfs.erofs can keep all times or none."""
    make = program("mkfs.erofs", "erofs-utils")
    # Without the epoch in the environment it prefers the one that it is given.
    chamber.outside(
        f"unset SOURCE_DATE_EPOCH; {make} --quiet -zlz4hc -T{epoch} -U{identity} "
        f'{shlex.quote(str(into))} "$m"',
        timeout=TIMEOUT,
    )
