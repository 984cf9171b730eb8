"""A tree as a filesystem that is read only: squashfs or erofs.

Both programs sort names by themselves. They keep every extended attribute but access lists, so that a machine's own
labels (SELinux) would be in what it writes; no Debian machine has any unless told to.
"""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path

from builder.run import program


def squashfs_command(epoch: int, into: Path) -> str:
    """For a shell: the tree `$m` with zstd, at a level that takes 3 s for base; no time in it is after the epoch."""
    make = program("mksquashfs", "squashfs-tools")
    return (
        f'SOURCE_DATE_EPOCH={epoch} {make} "$m" {shlex.quote(str(into))} -noappend -no-progress '
        "-quiet -comp zstd -Xcompression-level 6 -b 256K"
    )


def erofs_command(epoch: int, identity: uuid.UUID, into: Path) -> str:
    """For a shell: the tree `$m` with lz4. Every time in it is the epoch: Debian 12's program keeps all or none."""
    make = program("mkfs.erofs", "erofs-utils")
    # An epoch in the environment would count more than the one that it is given.
    return (
        f"env -u SOURCE_DATE_EPOCH {make} --quiet -zlz4hc -T{epoch} -U{identity} "
        f'{shlex.quote(str(into))} "$m"'
    )
