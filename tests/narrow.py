"""A cgroup with little memory, page cache included and no swap: what a machine of that size would give."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory(size: int) -> Iterator[Path]:
    """The folder of a new cgroup of `size` bytes, of whichever version; its file cgroup.procs takes processes."""
    first = (TOP / "memory").is_dir()
    if not first:
        (TOP / "cgroup.subtree_control").write_text("+memory")
    group = (TOP / "memory" if first else TOP) / f"phx-narrow-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(size))
        yield group
    finally:
        group.rmdir()


def killed(group: Path) -> int:
    """How many processes the kernel has ended there because it was full."""
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).is_file():
            rows = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(rows.get("oom_kill", 0))
    return 0
