"""Listens to every node of a cluster over its channel, tells what each said, and sends what it is to hear.

One loop, no threads: it connects to each node's socket, asks for everything, and hands over each line that proves
itself. A node that restarts its QEMU closes the socket; the broker connects again and asks again. Since agents
repeat everything when asked, a broker may be killed at any moment: the next one loses nothing.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import EnvironmentLacks
from contextualize.identity import Secret
from contextualize.message import ASK, LIMIT, BadMessage, Said, decode, order

if TYPE_CHECKING:  # it brings ssl along, which most clusters never need
    from contextualize.doorway import Doorway, Secured

RETRY = 0.2
"""Seconds between attempts to reach a channel that is not there yet."""
BOOTS = 8
"""Boots of a node whose last report is remembered: one that names more is heard twice, and that does no harm."""
SPARE = 256
"""Open files that the rest of the process may need."""


@dataclass(slots=True)
class _Line:
    """One node's channel."""

    node: str
    path: Path | None
    token: Secret
    socket: socket.socket | Secured | None = None
    heard: bytearray = field(default_factory=bytearray, repr=False)
    unsent: deque[bytes | memoryview] = field(default_factory=deque, repr=False)
    """What many nodes are told is in memory once, and stands here as a reference."""
    again: float = 0.0
    last: dict[str, int] = field(default_factory=dict)
    """Boot -> number of the last report: agents say all in the order of their numbers."""


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
        on_report: Callable[[Said], None],
        on_refuse: Callable[[str, str], None],
        on_open: Callable[[str], None] = lambda _: None,
        doorway: Doorway | None = None,
    ) -> None:
        self._doorway = doorway
        self._lines = {n: _Line(n, path, token) for n, (path, token) in sorted(channels.items())}
        _room_for(len(self._lines))
        self._closed = {n: line for n, line in self._lines.items() if line.path is not None}
        self._on_report, self._on_refuse, self._on_open = on_report, on_refuse, on_open
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines.values():
            self._drop(line)
        self._ready.close()

    def send(self, node: str, told: dict[str, object] | bytes) -> None:
        """Tell the node's agent a body, or a line that is ready, in its turn. It is lost when the channel breaks."""
        line = self._lines[node]
        if line.socket is not None:
            line.unsent.append(told if isinstance(told, bytes) else order(told, line.token))
            self._push(line)

    def step(self, patience: float) -> None:
        """Hear what there is, waiting at most `patience` seconds for the first of it."""
        now = time.monotonic()
        for node in self._doorway.arrived() if self._doorway else ():
            if node in self._lines:  # others come in too, and are nobody's business now
                self._drop(self._lines[node])
                self._connect(self._lines[node])
        # All wait equally long, so who waits longest stands first.
        while self._closed and now >= (line := next(iter(self._closed.values()))).again:
            self._connect(line)
        if self._closed or self._doorway:
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
        out = self._reach(line)
        if out is None:
            self._wait(line)
            return
        self._closed.pop(line.node, None)
        line.socket = out
        self._ready.register(out, selectors.EVENT_READ, line)
        line.unsent.append(ASK)
        self._on_open(line.node)
        self._push(line)

    def _reach(self, line: _Line) -> socket.socket | Secured | None:
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
                took = line.socket.send(line.unsent[0])
                rest = memoryview(line.unsent[0])[took:]
                line.unsent.popleft()
                if rest:
                    line.unsent.appendleft(rest)
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
            self._wait(line)
        line.heard.clear()
        line.unsent.clear()

    def _wait(self, line: _Line) -> None:
        """Who comes by HTTPS comes by itself; to the others we go again."""
        self._closed.pop(line.node, None)
        if line.path is not None:
            line.again = time.monotonic() + RETRY
            self._closed[line.node] = line

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
        # Only what is new is searched: a line that comes byte by byte costs no more than one that comes whole.
        *whole, rest = data.split(b"\n")
        for text in whole:
            line.heard += text
            text, line.heard = bytes(line.heard), bytearray()
            if text.strip():
                self._take(line, text)
            if line.socket is None:
                return
        line.heard += rest
        if len(line.heard) > LIMIT:
            self._on_refuse(
                line.node, f"{line.node} sent {len(line.heard)} bytes without an end of line"
            )
            self._drop(line)

    def _take(self, line: _Line, text: bytes) -> None:
        if text.strip() == ASK.strip():
            return  # the echo of a Xen console whose agent has not opened it yet
        try:
            report = decode(text, line.node, line.token)
        except BadMessage as cause:
            self._on_refuse(line.node, str(cause))
            return
        if report.seq <= line.last.get(report.boot, -1):
            return
        line.last[report.boot] = report.seq
        while len(line.last) > BOOTS:
            del line.last[next(iter(line.last))]
        self._on_report(report)


def _room_for(channels: int) -> None:
    """Let this process have that many open files besides its own. EnvironmentLacks if it may not."""
    wanted = channels + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = hard if hard == resource.RLIM_INFINITY else max(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    except (ValueError, OSError) as cause:
        raise EnvironmentLacks(
            f"{channels} channels need {wanted} open files, and this process may have {hard}",
            f"run it as root, or raise the limit: ulimit -n {wanted}",
        ) from cause
