"""The broker's HTTPS: agents without a virtio-serial port come in over the private network and get a channel too.

An agent connects by TLS 1.3, sees the pinned certificate, asks for an upgrade (RFC 9110, 7.8) and proves itself by a
mac under its node's token. From then on the connection carries the same lines as a virtio-serial port does; the
broker gets one end of a socket pair and knows no difference. The key and the certificate are derived from the
cluster's secret, so the pin is in every seed before the first broker runs, and every later broker shows the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import ssl
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from contextualize.certificate import Certificate, proof
from contextualize.identity import Secret

PATIENCE = 20.0
"""Seconds that an agent has to prove itself."""


class Doorway:
    """Listens in a thread of its own; `take` hands over the newest connection of a node.

    listening  a bound, listening TCP socket; it is closed at the end
    tokens     node -> its token
    """

    def __init__(
        self, listening: socket.socket, own: Certificate, tokens: Mapping[str, Secret]
    ) -> None:
        self._listening, self._own, self._tokens = listening, own, dict(tokens)
        self._waiting: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Doorway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        with self._lock:
            for ours in self._waiting.values():
                ours.close()
            self._waiting.clear()

    def take(self, node: str) -> socket.socket | None:
        """A connected, non-blocking socket to the node's agent; None while there is none."""
        with self._lock:
            return self._waiting.pop(node, None)

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with tempfile.TemporaryDirectory() as folder:
            # ssl reads keys from files only; the folder is ours alone, and gone at once.
            pem = Path(folder) / "pem"
            pem.touch(0o600)
            pem.write_bytes(self._own.key.reveal() + self._own.certificate)
            context.load_cert_chain(pem)
        asyncio.set_event_loop(self._loop)
        self._listening.setblocking(False)
        start = asyncio.start_server(
            self._greet, sock=self._listening, ssl=context, ssl_handshake_timeout=PATIENCE
        )
        server = self._loop.run_until_complete(start)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            node = self._proved(head)
            if not node:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: philoxenia\r\n\r\n"
            )
            await writer.drain()
            await self._carry(node, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

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

    async def _carry(
        self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Between the agent and a socket pair, until either ends."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with self._lock:
            old = self._waiting.pop(node, None)
            self._waiting[node] = ours
        if old is not None:
            old.close()
        inner_reader, inner_writer = await asyncio.open_connection(sock=theirs)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()

        ways = [
            asyncio.ensure_future(pump(reader, inner_writer)),
            asyncio.ensure_future(pump(inner_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        inner_writer.close()
