"""Many nodes' agents in one process: `python -m tests.bench.crowd`, for `context.py`.

Each node is a real `contextualize.agent.Channel`: its parser, its reports, its facts, its parts, its HTTPS. One loop
serves all of them where a guest has a thread, and a node takes its context into force at once: what files and hooks
cost is the guest's. A node's Unix socket listens, as QEMU's does.

Reads one JSON value: {"boot", "held": {role: seed's document}, "nodes": [{"node", "role", "token", "path" or "https",
"facts"}]}; says "ready"; at each line on standard input says how many lines of ours each node has heard, as JSON; ends
with it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from typing import Any

from contextualize import agent

NOWHERE = os.open(os.devnull, os.O_WRONLY)


class Quiet(agent.Channel):
    """A channel without a thread and without a pipe to wake it."""

    def __init__(self, told: dict[str, Any], boot: str, held: dict[str, Any]) -> None:
        super().__init__(told["node"], told["token"], https=told.get("https"))
        os.close(self.wake_read)
        os.close(self.wake_write)
        self.wake_write, self.boot, self.count = NOWHERE, boot, 0
        self.held, self.facts = held, told["facts"]
        self.port: agent.Port | agent.Secure | None = None
        self.sent: int | None = None
        self.rest = b""
        self.lines = 0

    def live(self) -> None:
        """Take what was told, and say all that follows."""
        while not self.orders.empty():
            told = self.orders.get()
            if "context" in told:
                digest = told["context"]["digest"]
                self.report("contextualized", context=digest)
                for name, value in self.facts.items():
                    self.give(name, None if value is None else value.encode())
                self.report("healthy", context=digest)


class Crowd:
    def __init__(self) -> None:
        self.select = selectors.DefaultSelector()
        self.channels: list[Quiet] = []

    def add(self, channel: Quiet, path: str | None) -> None:
        self.channels.append(channel)
        channel.report("booted")
        if path is None:
            channel.port = channel.open()
            assert channel.port is not None
            self.select.register(channel.port.fileno(), selectors.EVENT_READ, channel)
            return
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)
        self.select.register(listening, selectors.EVENT_READ, (listening, channel))

    def step(self) -> bool:
        """False when standard input said something."""
        for key, _ in self.select.select():
            if key.data is None:
                return False
            if isinstance(key.data, tuple):
                self.accept(*key.data)
            else:
                self.serve(key.data)
        return True

    def accept(self, listening: socket.socket, channel: Quiet) -> None:
        out, _ = listening.accept()
        out.setblocking(False)
        channel.port, channel.sent = agent.Port(out.detach()), None
        self.select.register(channel.port.fd, selectors.EVENT_READ, channel)

    def serve(self, channel: Quiet) -> None:
        assert channel.port is not None
        try:
            data = channel.port.read()
        except OSError:
            data = b""
        if not data:
            self.select.unregister(channel.port.fileno())
            channel.port.close()
            return
        *lines, channel.rest = (channel.rest + data).split(b"\n")
        channel.lines += len(lines)
        for line in lines:
            if channel.hear(line):
                channel.sent = 0
        channel.live()
        if channel.sent is not None:
            due = sorted(k for k in channel.kept.values() if k[0] > channel.sent)
            if due and agent.send(channel.port, b"".join(line for _, line in due)):
                channel.sent = due[-1][0]


def main() -> None:
    agent.say = lambda _text: None
    told = json.loads(sys.stdin.readline())
    held = {}
    for role, document in told["held"].items():
        shared = agent.Channel("-", "-")
        shared.hold(document)
        held[role] = shared.held
    crowd = Crowd()
    crowd.select.register(sys.stdin, selectors.EVENT_READ, None)
    for node in told["nodes"]:
        path = node.get("path")
        crowd.add(Quiet(node, told["boot"], held.get(node["role"], {})), path)
    print("ready", flush=True)
    while True:
        while crowd.step():
            pass
        if not sys.stdin.readline():
            return
        print(json.dumps({c.node: c.lines for c in crowd.channels}), flush=True)


if __name__ == "__main__":
    main()
