"""The reach of a host on this machine: its files are files here, its network may be a namespace of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from builder.errors import WorkFailed
from builder.images.manifest import Manifest
from builder.plan import Report
from builder.run import run
from cluster.hosts import netns
from cluster.hosts.host import STATE, Host
from cluster.hosts.reach import Space
from cluster.hosts.shaping import Shaper


class Here:
    """See `Reach`. Opening it costs nothing."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def run(self, argv: Sequence[str], *, timeout: float, data: bytes = b"") -> str:
        return run([*self.host.enter(), *argv], timeout=timeout, stdin=data).text

    def folders(self, *wanted: tuple[PurePosixPath, int, int]) -> None:
        try:
            for inside, mode, owner in wanted:
                folder = self.host.outside(inside)
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(mode)
                os.chown(folder, owner, owner)
        except OSError as cause:
            raise WorkFailed(f"host '{self.host.name}': {inside} cannot be made") from cause

    def write(self, path: PurePosixPath, data: bytes, mode: int, owner: int) -> None:
        with self._whole(path) as aside:
            with os.fdopen(
                os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb"
            ) as file:
                file.write(data)
            aside.chmod(mode)
            os.chown(aside, owner, owner)

    def put(self, source: Path, path: PurePosixPath, mode: int, owner: int) -> None:
        with self._whole(path) as aside:
            source.chmod(0o600)
            shutil.move(source, aside)
            aside.chmod(mode)
            os.chown(aside, owner, owner)

    @contextlib.contextmanager
    def _whole(self, path: PurePosixPath) -> Iterator[Path]:
        """Where to make what then takes its place."""
        final = self.host.outside(path)
        aside = final.with_suffix(".new")
        try:
            aside.unlink(missing_ok=True)
            yield aside
            aside.replace(final)
        except OSError as cause:
            raise WorkFailed(f"host '{self.host.name}': {path} cannot be written") from cause

    def tail(self, path: PurePosixPath, size: int) -> bytes:
        try:
            with self.host.outside(path).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read()
        except OSError:
            return b""

    def remove(self, *paths: PurePosixPath) -> None:
        for inside in paths:
            path = self.host.outside(inside)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".new").unlink(missing_ok=True)

    def bring(self, image: Manifest, folder: Path, report: Report) -> None:
        """It is here: the host sees our catalog."""

    def space(self) -> Space:
        top = self.host.outside(STATE)
        taken = sum(path.lstat().st_blocks * 512 for path in top.glob("*/*"))
        while not top.exists():  # a sandbox that was never started
            top = top.parent
        found = os.statvfs(top)
        return Space(found.f_bavail * found.f_frsize, taken)

    @contextlib.contextmanager
    def sockets(self, paths: Mapping[str, PurePosixPath]) -> Iterator[Mapping[str, Path]]:
        yield {name: self.host.outside(path) for name, path in paths.items()}

    def listen(self, address: str, port: int) -> socket.socket:
        return netns.listen(self.host.netns, address, port)

    def queues(self) -> Shaper:
        return Shaper(self.host.netns)

    def close(self) -> None:
        pass
