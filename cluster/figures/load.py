"""The load: requests to edge services from inside a host's network, as many as were asked for at each moment.

Run by itself, standard library only, since it runs on the host: its argument is a JSON text, its result another one.

    {"cpus": [1], "seconds": 20, "streams": {"VO1": {"address": "10.7.0.1", "path": "/?rounds=100&bytes=64",
        "connections": 4, "phases": [[0, 8, 0], [8, 14, 20.0], [14, 20, null]]}}}

A phase is [from, to, requests a second]; null is as many as come back. Requests of a rate are sent when their time has
come, whether or not others were answered; those that find twice as many waiting as there are connections are given up,
as an impatient user would. The result has, for each stream, the seconds at which requests were answered, and the bytes
that came in each fiftieth of a second.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

GRAIN = 50
"""Parts of a second in which bytes are counted together."""
PATIENCE = 30.0
"""Seconds that one request may take."""


class Stream:
    def __init__(self, told: dict[str, Any], started: float) -> None:
        self.told, self.started = told, started
        self.queue: asyncio.Queue[None] = asyncio.Queue(2 * told["connections"])
        self.done: list[float] = []
        self.bytes: dict[int, int] = {}
        self.lost = 0
        self.request = f"GET {told['path']} HTTP/1.1\r\nHost: {told['address']}\r\n\r\n".encode()

    def now(self) -> float:
        return time.monotonic() - self.started

    def phase(self) -> tuple[float | None, float | None]:
        """(its end, its rate) of the moment; nothing is asked for between phases."""
        now = self.now()
        for begin, end, rate in self.told["phases"]:
            if begin <= now < end:
                return end, rate
        later = [begin for begin, _, _ in self.told["phases"] if begin > now]
        return (min(later), 0) if later else (None, 0)

    async def arrivals(self) -> None:
        """Requests of a rate, each at its time."""
        due = self.now()
        while True:
            end, rate = self.phase()
            if end is None:
                return
            if not rate:  # nothing, or as many as come back
                await asyncio.sleep(max(0.0, end - self.now()) + 0.001)
                due = self.now()
                continue
            due = max(due + 1 / rate, self.now() - 0.1)
            await asyncio.sleep(min(due, end) - self.now())
            if due < end:
                try:
                    self.queue.put_nowait(None)
                except asyncio.QueueFull:
                    self.lost += 1

    async def connection(self) -> None:
        ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            end, rate = self.phase()
            if end is None:
                return
            if rate is not None:
                try:
                    await asyncio.wait_for(self.queue.get(), max(0.001, end - self.now()))
                except TimeoutError:
                    continue
            try:
                if ends is None:
                    opening = asyncio.open_connection(self.told["address"], 80)
                    ends = await asyncio.wait_for(opening, PATIENCE)
                ends[1].write(self.request)
                await asyncio.wait_for(self.answer(ends[0]), PATIENCE)
                self.done.append(round(self.now(), 3))
            except (OSError, TimeoutError, EOFError):
                self.lost += 1
                if ends is not None:
                    ends[1].close()
                ends = None
                await asyncio.sleep(0.05)

    async def answer(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"the service said {head[:60]!r}")
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while left:
            data = await reader.read(min(left, 1 << 16))
            if not data:
                raise EOFError
            left -= len(data)
            at = int(self.now() * GRAIN)
            self.bytes[at] = self.bytes.get(at, 0) + len(data)

    def result(self) -> dict[str, Any]:
        counted = [[at / GRAIN, count] for at, count in sorted(self.bytes.items())]
        return {"done": self.done, "bytes": counted, "lost": self.lost}


async def main(told: dict[str, Any]) -> dict[str, Any]:
    at, started = time.time(), time.monotonic()
    streams = {name: Stream(stream, started) for name, stream in told["streams"].items()}
    tasks: list[asyncio.Task[None]] = []
    for stream in streams.values():
        tasks.append(asyncio.create_task(stream.arrivals()))
        tasks += [
            asyncio.create_task(stream.connection()) for _ in range(stream.told["connections"])
        ]
    _, late = await asyncio.wait(tasks, timeout=told["seconds"] + 1.0)
    for task in late:
        task.cancel()
    for task in tasks:
        failed = task.exception() if task.done() and not task.cancelled() else None
        if failed is not None:
            raise failed
    return {"at": at, "streams": {name: stream.result() for name, stream in streams.items()}}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if asked["cpus"]:
        os.sched_setaffinity(0, asked["cpus"])
    print(json.dumps(asyncio.run(main(asked))))
