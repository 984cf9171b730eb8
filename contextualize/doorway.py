"""The broker's HTTPS: agents without a virtio-serial port come in over the private network and get a channel too.

An agent connects by TLS 1.3, sees the pinned certificate, asks for an upgrade (RFC 9110, 7.8) and proves itself by a
mac under its node's token. From then on the connection carries the same lines as a virtio-serial port does, and is the
broker's. The key and the certificate are derived from the cluster's secret, so the pin is in every seed before the
first broker runs, and every later broker shows the same.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from contextualize.certificate import Certificate, proof
from contextualize.identity import Secret

PATIENCE = 20.0
"""Seconds that an agent has to prove itself."""
TICK = 0.2
UNPROVED = 1024
"""Connections that may be on their way to that; more wait until some are through."""
HEAD = 8192
"""Bytes that a request may have."""
MOST = 1 << 20
"""Bytes that are read of one channel before others have their turn."""
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: philoxenia\r\n\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n"
WANTED = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Secured:
    """The broker's end of a proved connection, used as a non-blocking socket is."""

    def __init__(self, inner: ssl.SSLSocket) -> None:
        self._inner = inner

    def fileno(self) -> int:
        return self._inner.fileno()

    def recv(self, _size: int) -> bytes:
        """All that has come, b"" at the end; BlockingIOError when nothing has."""
        found = b""
        try:
            # What TLS holds already, no selector sees: it is read to its end.
            while len(found) < MOST or self._inner.pending():
                data = self._inner.recv(1 << 16)
                if not data:
                    return found
                found += data
        except WANTED:
            if not found:
                raise BlockingIOError from None
        return found

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self._inner.send(data)
        except WANTED:
            raise BlockingIOError from None

    def close(self) -> None:
        self._inner.close()


@dataclass(slots=True, eq=False)
class _Comer:
    """A connection that has not proved itself."""

    socket: ssl.SSLSocket
    until: float
    shaken: bool = False
    head: bytes = b""


class Doorway:
    """Listens in a thread of its own; `take` hands over the newest connection of a node.

    listening  a bound, listening stream socket; it is closed at the end
    tokens     node -> its token
    """

    def __init__(
        self, listening: socket.socket, own: Certificate, tokens: Mapping[str, Secret]
    ) -> None:
        self._listening, self._own, self._tokens = listening, own, dict(tokens)
        self._waiting: dict[str, Secured] = {}
        self._lock = threading.Lock()
        self._comers: set[_Comer] = set()
        self._select = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Doorway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended:
            return
        self._ended = True
        self._wake.send(b".")
        self._thread.join(5)
        for waiting in self._waiting.values():
            waiting.close()
        for ours in (self._wake, self._woken, self._listening):
            ours.close()
        self._waiting.clear()
        self._select.close()

    def take(self, node: str) -> Secured | None:
        """A connected, non-blocking socket to the node's agent; None while there is none."""
        with self._lock:
            return self._waiting.pop(node, None)

    def arrived(self) -> list[str]:
        """Nodes with a connection that nobody took. One that was taken before is dead: its machine said no goodbye."""
        with self._lock:
            return list(self._waiting)

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # no session is taken up again
        # ssl reads keys from files only; this one is in memory, and on no disk even if we are killed now.
        with os.fdopen(os.memfd_create("pem"), "wb", buffering=0) as pem:
            pem.write(self._own.key.reveal() + self._own.certificate)
            context.load_cert_chain(f"/proc/self/fd/{pem.fileno()}")
        self._listening.setblocking(False)
        self._select.register(self._listening, selectors.EVENT_READ)
        self._select.register(self._woken, selectors.EVENT_READ)
        listens = True
        while not self._ended:
            for key, _ in self._select.select(TICK):
                if key.fileobj is self._listening:
                    self._accept(context)
                elif isinstance(key.data, _Comer):
                    self._advance(key.data)
            now = time.monotonic()
            for comer in [c for c in self._comers if now > c.until]:
                self._drop(comer)
            room = len(self._comers) < UNPROVED
            if listens != room:
                listens = room
                if room:
                    self._select.register(self._listening, selectors.EVENT_READ)
                else:
                    self._select.unregister(self._listening)
        for comer in list(self._comers):
            self._drop(comer)

    def _accept(self, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError):  # it is gone again, or we have no file left for it now
            raw, _ = self._listening.accept()
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            comer = _Comer(secured, time.monotonic() + PATIENCE)
            self._comers.add(comer)
            self._select.register(secured, selectors.EVENT_READ, comer)

    def _advance(self, comer: _Comer) -> None:
        """As far as what has come allows: handshake, request, answer."""
        try:
            if not comer.shaken:
                comer.socket.do_handshake()
                comer.shaken = True
            while not comer.head.endswith(b"\r\n\r\n"):
                data = comer.socket.recv(4096)
                comer.head += data
                if not data or len(comer.head) > HEAD:
                    raise ConnectionError
            node = self._proved(comer.head.decode("latin-1"))
            comer.socket.send(UPGRADED if node else REFUSED)
        except ssl.SSLWantReadError:
            self._select.modify(comer.socket, selectors.EVENT_READ, comer)
        except ssl.SSLWantWriteError:
            self._select.modify(comer.socket, selectors.EVENT_WRITE, comer)
        except OSError:
            self._drop(comer)
        else:
            if not node:
                self._drop(comer)
                return
            self._select.unregister(comer.socket)
            self._comers.discard(comer)
            with self._lock:
                old = self._waiting.pop(node, None)
                self._waiting[node] = Secured(comer.socket)
            if old is not None:
                old.close()

    def _drop(self, comer: _Comer) -> None:
        self._select.unregister(comer.socket)
        self._comers.discard(comer)
        comer.socket.close()

    def _proved(self, head: str) -> str:
        """The node that the request proves to be of; "" when it proves none."""
        request, *lines = head.split("\r\n")
        words = request.split()
        fields = {
            k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)
        }
        if len(words) != 3 or words[0] != "GET" or fields.get("upgrade") != "philoxenia":
            return ""
        node = words[1].removeprefix("/")
        token = self._tokens.get(node)
        said = fields.get("authorization", "").removeprefix("Philoxenia ")
        if token is None or not said.isascii():
            return ""
        return node if hmac.compare_digest(proof(token, node, self._own.pin), said) else ""
