"""What only one may do at a time, and folders that are rubbish once nobody living has them: flock(2), between threads
as between processes. The kernel lets go of a lock when its owner dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.rights import remove

HOLDS = "holds"


@dataclass(frozen=True, slots=True)
class Claims:
    """What is claimed in a folder: what the living hold, and the folders that the dead left."""

    held: frozenset[str]
    dead: tuple[Path, ...]


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only one with the lock file `path`; `waiting` is told when another has it. It is gone afterwards."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had it before us removed it: then a file of that name is another one, and so is its lock.
            if _same(lock, path):
                try:
                    yield
                    return
                finally:
                    path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def _same(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claimed(root: Path, prefix: str, holds: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder in `root` that is ours while we live; what is left of it at the end is removed.

    holds  names that nobody takes away meanwhile: `claims` tells them
    """
    folder = root / f"{prefix}-{uuid.uuid4().hex[:12]}"
    with alone(root / ".claims"):
        folder.mkdir()
        mark = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(mark, fcntl.LOCK_EX)
        if names := list(holds):
            (folder / HOLDS).write_text("\n".join(names))
    try:
        yield folder
    finally:
        remove(folder)
        os.close(mark)


@contextlib.contextmanager
def claims(root: Path, *prefixes: str) -> Iterator[Claims]:
    """The claims in `root` as they are; nobody claims anything there while this lasts."""
    held: set[str] = set()
    dead: list[Path] = []
    with alone(root / ".claims"):
        for folder in sorted(f for prefix in prefixes for f in root.glob(f"{prefix}-*")):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                mark = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead.append(folder)
                except BlockingIOError:
                    with contextlib.suppress(FileNotFoundError):
                        held |= set((folder / HOLDS).read_text().split())
                finally:
                    os.close(mark)
        yield Claims(frozenset(held), tuple(dead))
