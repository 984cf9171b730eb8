"""phx with its doors timed: `python -m tests.bench.doors FILE WORDS...` runs `phx WORDS` and writes to FILE, as JSON,
the seconds in which it waited, by door, and those in which it did not: our own share.

What is waited for: the host's libvirt, a command or a file by SSH, guests that say something. Several threads wait at
the same time, so seconds are of the clock: those in which any thread was behind a door. All else is ours, with the
programs that we run here (qemu-img), and whatever others on this machine took of our cores.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Span = tuple[float, float]


def union(spans: list[Span]) -> float:
    """Seconds that any of them covers.

    >>> union([(0, 2), (1, 3), (5, 6)])
    4
    """
    whole, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        whole += max(0, stop - max(start, end))
        end = max(end, stop)
    return whole


class Doors:
    def __init__(self) -> None:
        self.began = time.monotonic()
        self.spans: dict[str, list[Span]] = {}

    @contextlib.contextmanager
    def behind(self, door: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.spans.setdefault(door, []).append((start, time.monotonic()))

    def watch(self, of: Any, name: str, door: Callable[..., str]) -> None:
        real = getattr(of, name)

        def timed(*words: Any, **more: Any) -> Any:
            with self.behind(door(*words)):
                return real(*words, **more)

        setattr(of, name, timed)

    def watch_context(self, of: Any, name: str, door: str) -> None:
        real = getattr(of, name)

        @contextlib.contextmanager
        def timed(*words: Any) -> Iterator[None]:
            with self.behind(door), real(*words):
                yield

        setattr(of, name, timed)

    def told(self) -> dict[str, float]:
        whole = time.monotonic() - self.began
        every = [span for spans in self.spans.values() for span in spans]
        return {
            "whole": whole, "ours": whole - union(every), **{d: union(s) for d, s in self.spans.items()}
        }  # fmt: skip


def main() -> None:
    doors = Doors()
    from cluster import cli
    from cluster.hosts.hypervisor import Libvirt
    from cluster.hosts.remote import There
    from contextualize.broker import Broker

    doors.watch(Libvirt, "__init__", lambda *_: "libvirt")
    doors.watch_context(Libvirt, "_door", "libvirt")
    doors.watch(There, "_open", lambda *_: "ssh")
    doors.watch(There, "_do", lambda *_: "ssh")
    doors.watch(There, "_pour", lambda _, command, *__: "image" if "BLAKE2" in command else "ssh")
    doors.watch(Broker, "step", lambda *_: "guests")
    file, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    try:
        cli.main()
    finally:
        file.write_text(json.dumps(doors.told()) + "\n")


if __name__ == "__main__":
    main()
