"""The way to one host's files, commands and sockets: the same verbs whether it is this machine or another one.

Paths are as the host's libvirt calls them. libvirt itself is reached beside this, by its own address.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from builder.images.manifest import Manifest
from builder.plan import Report
from cluster.hosts.host import Host
from cluster.hosts.shaping import Shape


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system that guests' disks lie on: bytes that are free, bytes that our guests have by now."""

    free: int
    taken: int


class Queues(Protocol):
    """The queues of a host's network devices, in which bandwidth is held."""

    def ensure(self, tap: str, inward: Shape, outward: Shape) -> bool:
        """Hold what comes to the guest and what comes from it; whether anything had to change.

        WorkFailed if they cannot be held.
        """
        ...

    def read(self, tap: str) -> tuple[Shape | None, Shape | None]:
        """(to the guest, from the guest) as they are held now; None where nothing is set."""
        ...

    def remove(self, tap: str) -> None:
        """Take away what is ours and outlives the device. Silent when nothing is there."""
        ...

    def devices(self) -> list[str]:
        """Names of all network devices of the host."""
        ...


class Reach(Protocol):
    """Every verb raises WorkFailed, and EnvironmentLacks where the host does not answer."""

    host: Host

    def run(self, argv: Sequence[str], *, timeout: float, data: bytes = b"") -> str:
        """What a command in the host's network wrote; `data` is its input. CommandFailed if it fails."""
        ...

    def folders(self, *wanted: tuple[PurePosixPath, int, int]) -> None:
        """Folders that shall be there: (path, mode, owner)."""
        ...

    def write(self, path: PurePosixPath, data: bytes, mode: int, owner: int) -> None:
        """A file, whole or not at all. Nobody else could read it at any moment if `mode` says so."""
        ...

    def put(self, source: Path, path: PurePosixPath, mode: int, owner: int) -> None:
        """The same from a file of ours, which is gone afterwards."""
        ...

    def tail(self, path: PurePosixPath, size: int) -> bytes:
        """The last bytes of a file, at most `size`; b"" when there is none."""
        ...

    def remove(self, *paths: PurePosixPath) -> None:
        """Files, and folders with all in them. Silent about what is gone."""
        ...

    def bring(self, image: Manifest, folder: Path, report: Report) -> None:
        """See to it that an image of our catalog is on the host, whole and verified, in `Host.image`."""
        ...

    def space(self) -> Space:
        """What the file system of the guests' disks has. Cost: a walk over our guests' files."""
        ...

    def sockets(
        self, paths: Mapping[str, PurePosixPath]
    ) -> AbstractContextManager[Mapping[str, Path]]:
        """Unix sockets of the host, by any name, as sockets of this machine while the context is open."""
        ...

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket at an address of the host's network."""
        ...

    def queues(self) -> AbstractContextManager[Queues]: ...

    def close(self) -> None: ...
