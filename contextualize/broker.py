"""Listens to every node of a cluster over its channel and tells what each reported.

One loop, no threads: it connects to each node's socket, asks for everything, and hands over each report that proves
itself. A node that restarts its QEMU closes the socket; the broker connects again and asks again. Since agents
repeat everything when asked, a broker may be killed at any moment: the next one loses nothing.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contextualize.identity import Secret
from contextualize.message import ASK, LIMIT, BadMessage, Report, decode

RETRY = 0.2
"""Seconds between attempts to reach a channel that is not there yet."""


@dataclass(slots=True)
class _Line:
    """One node's channel."""

    node: str
    path: Path
    token: Secret
    socket: socket.socket | None = None
    heard: bytearray = field(default_factory=bytearray)
    again: float = 0.0


class Broker:
    """channels   node -> (socket of its channel, its token)
    on_report  called with each report that is new
    on_refuse  called with (node, reason) for what no agent of that node would send
    """

    def __init__(
        self,
        channels: Mapping[str, tuple[Path, Secret]],
        on_report: Callable[[Report], None],
        on_refuse: Callable[[str, str], None],
    ) -> None:
        self._lines = [_Line(n, path, token) for n, (path, token) in sorted(channels.items())]
        self._on_report, self._on_refuse = on_report, on_refuse
        self._seen: set[tuple[str, str, int]] = set()
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            self._drop(line)
        self._ready.close()

    def step(self, patience: float) -> None:
        """Hear what there is, waiting at most `patience` seconds for the first of it."""
        now = time.monotonic()
        for line in self._lines:
            if line.socket is None and now >= line.again:
                self._connect(line)
        if any(line.socket is None for line in self._lines):
            patience = min(patience, RETRY)
        if not self._ready.get_map():
            time.sleep(patience)
            return
        for key, _ in self._ready.select(patience):
            self._hear(key.data)

    def _connect(self, line: _Line) -> None:
        line.again = time.monotonic() + RETRY
        out = socket.socket(socket.AF_UNIX)
        out.setblocking(False)
        try:
            out.connect(str(line.path))
            out.send(ASK)
        except OSError:
            out.close()
            return
        line.socket = out
        self._ready.register(out, selectors.EVENT_READ, line)

    def _drop(self, line: _Line) -> None:
        if line.socket is not None:
            with contextlib.suppress(KeyError):
                self._ready.unregister(line.socket)
            line.socket.close()
            line.socket = None
        line.heard.clear()
        line.again = time.monotonic() + RETRY

    def _hear(self, line: _Line) -> None:
        assert line.socket is not None
        try:
            data = line.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(line)
            return
        line.heard += data
        *whole, rest = bytes(line.heard).split(b"\n")
        line.heard = bytearray(rest)
        for text in whole:
            if text.strip():
                self._take(line, text)
        if len(line.heard) > LIMIT:
            self._on_refuse(
                line.node, f"{line.node} sent {len(line.heard)} bytes without an end of line"
            )
            self._drop(line)

    def _take(self, line: _Line, text: bytes) -> None:
        try:
            report = decode(text, line.node, line.token)
        except BadMessage as cause:
            self._on_refuse(line.node, str(cause))
            return
        key = (report.node, report.boot, report.seq)
        if key not in self._seen:
            self._seen.add(key)
            self._on_report(report)
