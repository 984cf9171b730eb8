"""Listens to every node of a cluster over its channel, tells what each said, and sends what it is to hear.

One loop, no threads: it connects to each node's socket, asks for everything, and hands over each line that proves
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
from typing import TYPE_CHECKING

from contextualize.identity import Secret
from contextualize.message import ASK, LIMIT, BadMessage, Given, Report, decode, order

if TYPE_CHECKING:  # it brings asyncio and ssl along, which most clusters never need
    from contextualize.doorway import Doorway

RETRY = 0.2
"""Seconds between attempts to reach a channel that is not there yet."""


@dataclass(slots=True)
class _Line:
    """One node's channel."""

    node: str
    path: Path | None
    token: Secret
    socket: socket.socket | None = None
    heard: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    again: float = 0.0


class Broker:
    """channels   node -> (socket of its channel, its token); the path is None for a node that comes by HTTPS
    doorway    where those come in
    on_report  called with each report and fact that is new
    on_refuse  called with (node, reason) for what no agent of that node would send
    on_open    called with a node whose channel was (re)connected: what was sent before may be lost
    """

    def __init__(
        self,
        channels: Mapping[str, tuple[Path | None, Secret]],
        on_report: Callable[[Report | Given], None],
        on_refuse: Callable[[str, str], None],
        on_open: Callable[[str], None] = lambda _: None,
        doorway: Doorway | None = None,
    ) -> None:
        self._doorway = doorway
        self._lines = {n: _Line(n, path, token) for n, (path, token) in sorted(channels.items())}
        self._closed = list(self._lines.values())
        self._on_report, self._on_refuse, self._on_open = on_report, on_refuse, on_open
        self._seen: set[tuple[str, str, int]] = set()
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines.values():
            self._drop(line)
        self._ready.close()

    def send(self, node: str, body: dict[str, object]) -> None:
        """Tell the node's agent `body`, in its turn. Lost when the channel breaks: see `on_open`."""
        line = self._lines[node]
        if line.socket is not None:
            line.unsent += order(body, line.token)
            self._push(line)

    def step(self, patience: float) -> None:
        """Hear what there is, waiting at most `patience` seconds for the first of it."""
        now = time.monotonic()
        for line in [line for line in self._closed if now >= line.again]:
            self._connect(line)
        if self._closed:
            patience = min(patience, RETRY)
        if not self._ready.get_map():
            time.sleep(patience)
            return
        for key, mask in self._ready.select(patience):
            line = key.data
            if mask & selectors.EVENT_WRITE and line.socket is not None:
                self._push(line)
            if mask & selectors.EVENT_READ and line.socket is not None:
                self._hear(line)

    def _connect(self, line: _Line) -> None:
        line.again = time.monotonic() + RETRY
        out = self._reach(line)
        if out is None:
            return
        line.socket = out
        self._closed.remove(line)
        self._ready.register(out, selectors.EVENT_READ, line)
        line.unsent[:] = ASK
        self._on_open(line.node)
        self._push(line)

    def _reach(self, line: _Line) -> socket.socket | None:
        if line.path is None:
            return self._doorway.take(line.node) if self._doorway else None
        out = socket.socket(socket.AF_UNIX)
        out.setblocking(False)
        try:
            out.connect(str(line.path))
        except OSError:
            out.close()
            return None
        return out

    def _push(self, line: _Line) -> None:
        """Send what the channel takes now; the rest when it can be written again."""
        assert line.socket is not None
        try:
            while line.unsent:
                del line.unsent[: line.socket.send(line.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(line)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
        if self._ready.get_key(line.socket).events != wanted:
            self._ready.modify(line.socket, wanted, line)

    def _drop(self, line: _Line) -> None:
        if line.socket is not None:
            with contextlib.suppress(KeyError):
                self._ready.unregister(line.socket)
            line.socket.close()
            line.socket = None
            self._closed.append(line)
        line.heard.clear()
        line.unsent.clear()
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
