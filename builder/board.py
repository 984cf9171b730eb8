"""How many builds speak at once: on a terminal one live line each, elsewhere plain lines that begin with the recipe."""

from __future__ import annotations

import os
import sys
import threading
import time

from builder.plan import Report


class Board:
    """Lines of running builds, on standard error. May be used by many threads."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._rows: dict[str, tuple[float, str]] = {}
        self._drawn = 0

    def report(self, name: str) -> Report:
        """What the build of `name` reports to. Lines that start with a space are detail, for the live line only."""

        def hear(line: str) -> None:
            with self._lock:
                if self.live:
                    begun, _ = self._rows.get(name, (time.monotonic(), ""))
                    self._rows[name] = begun, line.strip()
                    self._draw()
                elif not line.startswith(" "):
                    self._write(f"{self._stamp()} {name}: {line}\n")

        return hear

    def end(self, name: str, text: str) -> None:
        """The build of `name` is over: `text` stays, its live line goes."""
        with self._lock:
            self._rows.pop(name, None)
            self._wipe()
            self._write(f"{self._stamp()} {name}: {text}\n")
            if self.live:
                self._draw()

    def close(self) -> None:
        """Take the live lines away."""
        with self._lock:
            self._rows.clear()
            self._wipe()
            self._write("")

    def _draw(self) -> None:
        size = os.get_terminal_size(sys.stderr.fileno())
        width, room = size.columns - 1, max(1, size.lines - 2)
        wide = max((len(name) for name in self._rows), default=0)
        now = time.monotonic()
        rows = [
            f"  {name.ljust(wide)} {now - begun:6.1f}s  {text}"[:width]
            for name, (begun, text) in self._rows.items()
        ]
        if len(rows) > room:
            rows = [*rows[: room - 1], f"  and {len(rows) - room + 1} more"]
        self._wipe()
        self._write("".join(f"\x1b[2m{row}\x1b[0m\n" for row in rows))
        self._drawn = len(rows)

    def _wipe(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    def _stamp(self) -> str:
        return f"{time.monotonic() - self._started:6.1f}s"
