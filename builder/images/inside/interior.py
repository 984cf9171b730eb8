"""What is inside a disk or an image, as a small port: to be read, or to be changed as well; and a fake in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from builder.errors import WorkFailed
from builder.images.manifest import PackageFact

READ_MAX = 64 << 20
"""Bytes of a file that `read` gives; larger ones are for `take`."""

Mounts = tuple[tuple[str, str], ...]
"""(mount point, what is mounted there), the root first; a btrfs subvolume as btrfsvol:/dev/vda2/NAME."""


@dataclass(frozen=True, slots=True)
class System:
    """An operating system on a disk.

    distribution  a word: debian, ubuntu, fedora, ...
    product       for people: "Debian GNU/Linux 12 (bookworm)"
    uuid          of the root's filesystem
    """

    distribution: str
    product: str
    version: str
    mounts: Mounts
    uuid: str
    packages: tuple[PackageFact, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. `kind` is file, folder, link or other; `target` is a link's."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    mode: int
    uid: int
    gid: int
    size: int
    target: str = ""
    mtime: int = field(default=0, compare=False)


class Readable(Protocol):
    """What is inside an image, to be read. Paths are absolute, and links in them lead nowhere outside."""

    def list(self, folder: str) -> tuple[Entry, ...]:
        """In the order of names. WorkFailed when it is no folder."""

    def read(self, path: str) -> bytes:
        """WorkFailed when it is no file, or larger than READ_MAX."""

    def take(self, path: str, into: Path) -> None:
        """Copy a file, or a folder with all that is in it, out to `into`, which is not there yet."""


class Interior(Readable, Protocol):
    """What is inside a disk, to be changed as well."""

    def systems(self) -> tuple[System, ...]:
        """The operating systems found on it. Costs 5 s under emulation."""

    def enter(self, mounts: Mounts) -> None:
        """From now on, paths are those of this system."""

    def write(self, path: str, data: bytes, mode: int, owner: str = "root") -> None:
        """A file; folders above it are made. A link in its place is replaced. `owner` is user[:group] of the system."""

    def remove(self, path: str) -> None:
        """A file or a link. Silent when it is gone."""

    def link(self, path: str, target: str) -> None:
        """A symbolic link; what was there is replaced."""

    def put(self, source: Path, path: str) -> None:
        """Copy a folder in as `path`, which is not there yet, as root's."""

    def run(self, script: str) -> str:
        """Run `sh -eu` in the system, without a network; what it wrote. WorkFailed with its words."""

    def trim(self) -> None:
        """Give blocks that no file uses back, so that the disk's file is sparse there."""


def too_large(path: str) -> WorkFailed:
    return WorkFailed(f"{path} has more than {READ_MAX >> 20} MiB", "copy it: phx image cp")


@dataclass
class FakeInterior:
    """A disk in memory: `files` by path, a link as its target's text. Folders are there when something is in them."""

    found: tuple[System, ...] = ()
    files: dict[str, tuple[bytes | str, int]] = field(default_factory=dict)
    answers: Callable[[str], str] = lambda script: ""
    entered: Mounts = ()
    trimmed: bool = False
    ran: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)

    def systems(self) -> tuple[System, ...]:
        return self.found

    def enter(self, mounts: Mounts) -> None:
        self.entered = mounts

    def list(self, folder: str) -> tuple[Entry, ...]:
        top = folder.rstrip("/") + "/"
        names = {path[len(top) :].partition("/")[0] for path in self.files if path.startswith(top)}
        if not names:
            raise WorkFailed(f"{folder} cannot be listed: Not a directory")
        return tuple(self._entry(top + name, name) for name in sorted(names))

    def _entry(self, path: str, name: str) -> Entry:
        if path not in self.files:
            return Entry(name, "folder", 0o755, 0, 0, 4096)
        data, mode = self.files[path]
        if isinstance(data, str):
            return Entry(name, "link", 0o777, 0, 0, len(data), data)
        return Entry(name, "file", mode, 0, 0, len(data))

    def read(self, path: str) -> bytes:
        data, _ = self.files.get(path, ("", 0))
        if isinstance(data, str):
            if data:
                return self.read(str(PurePosixPath(path).parent / data))
            raise WorkFailed(f"{path} is no file")
        if len(data) > READ_MAX:
            raise too_large(path)
        return data

    def take(self, path: str, into: Path) -> None:
        if path in self.files:
            into.write_bytes(self.read(path))
            return
        entries = self.list(path)
        into.mkdir()
        for entry in entries:
            self.take(f"{path}/{entry.name}", into / entry.name)

    def write(self, path: str, data: bytes, mode: int, owner: str = "root") -> None:
        self.files[path] = data, mode
        if owner != "root":
            self.owners[path] = owner

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def link(self, path: str, target: str) -> None:
        self.files[path] = target, 0o777

    def put(self, source: Path, path: str) -> None:
        for item in sorted(p for p in source.rglob("*") if p.is_file()):
            self.files[f"{path}/{item.relative_to(source)}"] = (
                item.read_bytes(),
                item.stat().st_mode & 0o777,
            )

    def run(self, script: str) -> str:
        self.ran.append(script)
        return self.answers(script)

    def trim(self) -> None:
        self.trimmed = True
