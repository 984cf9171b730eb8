#!/usr/bin/python3
"""GET /?rounds=R&bytes=B hashes R times and answers with B bytes. One process for each CPU, on the same port.

Keep-alive and nothing else of HTTP/1.1: the service shall cost what the request says, and little besides.
"""

import asyncio
import hashlib
import os
import socket
import sys

MOST_ROUNDS, MOST_BYTES = 10_000_000, 64 << 20


class Conversation(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.heard = transport, b""

    def data_received(self, data):
        self.heard += data
        while b"\r\n\r\n" in self.heard:
            head, _, self.heard = self.heard.partition(b"\r\n\r\n")
            status, body = answer(head.split(b"\r\n")[0])
            self.transport.write(
                b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
            )
        if len(self.heard) > 8192:
            self.transport.close()


def answer(line):
    """(status, body) of a request line."""
    try:
        method, target, _version = line.decode().split(" ")
        path, _, query = target.partition("?")
        asked = dict(part.split("=", 1) for part in query.split("&") if part)
        rounds, size = int(asked.pop("rounds", 1)), int(asked.pop("bytes", 64))
    except ValueError:
        return b"400 Bad Request", b""
    if method != "GET" or path != "/" or asked:
        return b"404 Not Found", b""
    if not (1 <= rounds <= MOST_ROUNDS and 0 <= size <= MOST_BYTES):
        return b"400 Bad Request", b""
    digest = hashlib.pbkdf2_hmac("sha256", b"a request", b"", rounds).hex().encode()
    return b"200 OK", (digest * (size // len(digest) + 1))[:size]


async def serve(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("", port))
    server = await asyncio.get_running_loop().create_server(
        Conversation, sock=listener, backlog=256
    )
    await server.serve_forever()


if __name__ == "__main__":
    for _ in range(len(os.sched_getaffinity(0)) - 1):
        if os.fork() == 0:
            break
    asyncio.run(serve(int(sys.argv[1])))
