"""A finished tree read into values: every file, folder and link with what an image keeps of it, in the order of names.

The order in which a disk lists a folder is an accident, so names are sorted as bytes. No file is younger than the
epoch. Of extended attributes those are kept that are the appliance's own: the kernel's marks of this machine
(trusted.*, SELinux labels) would differ between machines, and between root and others.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

KEPT = ("user.", "security.capability", "system.posix_acl_")
"""How the names of the extended attributes begin that an image keeps."""


@dataclass(slots=True)
class Node:
    """One inode, whatever the number of its names.

    mode      kind and permissions, as in stat(2)
    size      bytes of a regular file's content
    device    (major, minor) of a device node
    target    what a symbolic link leads to
    path      where a regular file's content lies
    children  (name, node) of a folder, sorted
    links     names of what is not a folder
    """

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    path: bytes = b""
    attributes: tuple[tuple[str, bytes], ...] = ()
    children: list[tuple[bytes, Node]] = field(default_factory=list)
    links: int = 1

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def read(top: bytes, epoch: int) -> Node:
    """The tree below `top`. Two names of one inode give the same Node."""
    known: dict[tuple[int, int], Node] = {}

    def node(path: bytes, found: os.stat_result) -> Node:
        identity = found.st_dev, found.st_ino
        if identity in known:
            known[identity].links += 1
            return known[identity]
        made = Node(
            found.st_mode, found.st_uid, found.st_gid, min(int(found.st_mtime), epoch),
            attributes=_attributes(path),
        )  # fmt: skip
        if stat.S_ISREG(found.st_mode):
            made.size, made.path = found.st_size, path
        elif stat.S_ISLNK(found.st_mode):
            made.target = os.readlink(path)  # noqa: PTH115 (bytes have no Path)
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            made.device = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif made.is_folder:
            with os.scandir(path) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
            made.children = [
                (entry.name, node(entry.path, entry.stat(follow_symlinks=False)))
                for entry in entries
            ]
        if found.st_nlink > 1 and not made.is_folder:
            known[identity] = made
        return made

    return node(top, os.lstat(top))


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = os.listxattr(path, follow_symlinks=False)
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(names)
        if name.startswith(KEPT)
    )
