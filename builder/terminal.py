"""How commands speak: a live line and tables on a terminal, one plain line per event elsewhere, JSON on request."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Terminal:
    """Progress goes to standard error, results to standard output, so that a pipe gets results only."""

    def __init__(self, quiet: bool = False) -> None:
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.quiet = quiet
        self._started = time.monotonic()
        self._shown = 0

    def report(self, line: str) -> None:
        """One event. Lines that start with a space are detail: the live line shows them, a log does not."""
        if self.quiet:
            return
        if self.live:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            self._wipe()
            if line.startswith(" "):
                text = f"        {line.strip()}"[: width - 1]
                sys.stderr.write(f"\x1b[2m{text}\x1b[0m")
                self._shown = len(text)
            else:
                sys.stderr.write(f"{self._stamp()} {line}\n")
            sys.stderr.flush()
        elif not line.startswith(" "):
            print(f"{self._stamp()} {line}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A result for people."""
        self.clear()
        print(text, flush=True)

    def raw(self, data: bytes) -> None:
        """A result as it is."""
        self.clear()
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def error(self, text: str) -> None:
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def json(self, value: Any) -> None:
        """A result for programs."""
        self.clear()
        print(json.dumps(value, indent=1, default=str), flush=True)

    def line(self, value: Any) -> None:
        """One result of a stream, for programs."""
        self.clear()
        print(json.dumps(value, default=str), flush=True)

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Columns under their heads, plain text; numbers to the right."""
        self.clear()
        body = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(r[n]) for r in [list(heads), *body]) for n in range(len(heads))]
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.table import Table

            drawn = Table(box=None, pad_edge=False, header_style="bold")
            for head in heads:
                drawn.add_column(head, overflow="fold")
            for row in body:
                drawn.add_row(*row)
            Console().print(drawn)
            return
        for row in [list(heads), *body]:
            print(
                "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip(),
                flush=True,
            )

    def clear(self) -> None:
        if self.live and self._shown:
            self._wipe()
            sys.stderr.flush()

    def _wipe(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            self._shown = 0

    def _stamp(self) -> str:
        return f"{time.monotonic() - self._started:6.1f}s"


def home() -> Path:
    """Where everything that gets made lies: $PHX_HOME, else artifacts/ beside the packages."""
    given = os.environ.get("PHX_HOME")
    return (
        Path(given).absolute() if given else Path(__file__).absolute().parent.parent / "artifacts"
    )


def library() -> Path:
    """Where recipes are found by name: $PHX_RECIPES, else recipes/ beside the packages."""
    given = os.environ.get("PHX_RECIPES")
    return Path(given).absolute() if given else Path(__file__).absolute().parent.parent / "recipes"


def user() -> str:
    """Who called: $SUDO_USER, else $LOGNAME or $USER, else the name of the process's user."""
    import getpass

    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a number without a name; OSError from Python 3.13 on
        return str(os.getuid())


LAYERS_MAX = "50G"


def layers_max() -> int | None:
    """How many bytes layers may take after a build: $PHX_LAYERS_MAX, else 50G; None for `none`."""
    from builder import units
    from builder.errors import InputError, Problem

    given = os.environ.get("PHX_LAYERS_MAX", LAYERS_MAX)
    if given == "none":
        return None
    try:
        return units.size(given)
    except ValueError as cause:
        raise InputError(Problem("PHX_LAYERS_MAX", *str(cause).split("; "))) from None
