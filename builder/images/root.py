"""The finished tree as the disk that a node starts from: ext4, or a read-only filesystem with room for what changes.

    ext4                the disk is the filesystem
    squashfs, erofs     the disk is the filesystem; what a node changes is in its memory
      ... changes: disk   two partitions: the filesystem, and an ext4 for what changes, which grows with the disk

The initrd puts the overlay together (builder/images/initrd.py), told by the kernel's parameters in `Output.cmdline`.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import uuid
from pathlib import Path
from typing import assert_never

from builder.errors import WorkFailed
from builder.images import mkext4
from builder.images.ext4.geometry import Label
from builder.images.ext4.layout import lay_out
from builder.images.formats import filesystems, partitions
from builder.images.formats.partitions import LINUX, MIB, Partition
from builder.images.manifest import WHOLE
from builder.images.tree import Node
from builder.plan import BuildPlan, Output, label

LEAST = 16 * MIB
"""Bytes for changes below which a node could not even start."""


def command(output: Output, identity: uuid.UUID, parts: Path, disk: Path) -> str:
    """A shell command that reads the tree `$m`. For ext4 it prints the disk's sha256; else `finish` goes on."""
    match output.root.format:
        case "ext4":
            python, into = shlex.quote(sys.executable), shlex.quote(str(disk))
            return f'{python} -P -m builder.images.mkext4 "$m" {into} {output.size} {identity} {output.epoch}'
        case "squashfs":
            return filesystems.squashfs_command(output.epoch, parts / "root")
        case "erofs":
            return filesystems.erofs_command(output.epoch, identity, parts / "root")
        case _:
            assert_never(output.root.format)


def mounts(output: Output) -> tuple[tuple[str, str], ...]:
    """Where the root is on the disk, as the manifest has it."""
    return WHOLE if output.root.changes == "memory" else (("/", "/dev/sda1"),)


def finish(plan: BuildPlan, identity: uuid.UUID, parts: Path, disk: Path) -> None:
    """Make the disk of what `command` left in `parts`. WorkFailed when nothing would be left for changes."""
    output = plan.output
    if output.root.format == "ext4":
        return
    fixed = parts / "root"
    size = -(-fixed.stat().st_size // MIB) * MIB
    if output.root.changes == "memory":
        with fixed.open("rb") as source, disk.open("xb") as target:
            target.truncate(size)
            partitions.copy(source.fileno(), target.fileno(), 0, 0, size)
        return
    rest = output.size - size - 2 * MIB
    if rest < LEAST:
        raise WorkFailed(
            f"the read-only root takes {size >> 20}M of {output.size >> 20}M and leaves no room for changes",
            "raise 'size' in the recipe, or keep changes in memory",
        )
    changes = parts / "changes"
    empty = Node(stat.S_IFDIR | 0o755, 0, 0, output.epoch)
    name = Label(b"changes", uuid.uuid5(identity, "changes").bytes, output.epoch)
    opened = os.open(changes, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        mkext4.write(lay_out(empty, rest, name), rest, opened)
    finally:
        os.close(opened)
    both = [Partition(1, label("root", plan.id), LINUX, size, fixed),
            Partition(2, label("changes", plan.id), LINUX, rest, changes)]  # fmt: skip
    partitions.write(both, identity, disk)
