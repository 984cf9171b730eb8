"""Contextualization without guests: the plan, the broker, the coordinator, the wait and the ledger are the real ones.

The agents are two processes of tests/bench/crowd.py: real `Channel`s of contextualize/agent.py over Unix sockets, as
QEMU gives them, or HTTPS; the agents' work is in the times. Each figure is from a process of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from builder.terminal import Terminal
from contextualize.declared import Declared, Provide, Require
from contextualize.exchange import Exchange
from tests.bench import NONE, show, timed


def ready(nodes: int, way: str, runs: int = 1) -> dict[str, Any]:
    """What `tests.bench.ready` measured; the median of each figure."""
    found = [_ready(nodes, way) for _ in range(runs)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _ready(nodes: int, way: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.bench.ready", str(nodes), way]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def solve(nodes: int) -> None:
    """Every worker gives a fact that the head needs, and needs two of the head's, which come last."""
    head = Declared(
        provides=(Provide("key", "hook", secret=True), Provide("up", "tcp", "1")),
        requires=(Require("id", of="all", late=True),),
    )
    worker = Declared(provides=(Provide("id", "hook"),), requires=(Require("key"), Require("up")))
    names = [f"worker-{n}" for n in range(nodes - 1)]
    members = {"head-1": "head", **dict.fromkeys(names, "worker")}
    exchange = Exchange({"head": head, "worker": worker}, members)
    for name in members:
        exchange.reach(name, "booted")
    for name in names:
        exchange.tell(name, "id", name.encode())
        assert exchange.missing("worker")
    exchange.tell("head-1", "key", b"k")
    exchange.tell("head-1", "up", None)
    for name in members:
        assert not exchange.missing(members[name])
        exchange.reach(name, "healthy")
    assert len(exchange.facts("head")["id"]) == nodes - 1
    assert not exchange.missing("head", late=True)


def measure(terminal: Terminal) -> None:
    rows: list[tuple[str, float, float]] = []
    terminal.report("the pure exchange, five times")
    rows.append(("the pure exchange, 10,000 nodes", timed(lambda: solve(10_000), 5), 1))
    terminal.report("1,000 nodes, four ways, three times")
    small, news, https, change = (
        ready(1000, way, 3) for way in ("seeds", "news", "https", "change")
    )
    rows.append(("1,000 nodes to ready, peers known from the seeds", small["ready"], 10))
    rows.append(("1,000 nodes to ready, all peers and keys told to all", news["ready"], 10))
    rows.append(("1,000 nodes to ready, by HTTPS", https["ready"], 10))
    terminal.report("10,000 nodes, two ways, the first three times")
    large, large_https = ready(10_000, "seeds", 3), ready(10_000, "https")
    for what, ten, one in (("", large, small), (", by HTTPS", large_https, https)):
        rows.append((f"10,000 nodes to ready{what}", ten["ready"], 10 * one["ready"]))
        rows.append(("  of it, work of our side", ten["ours"], 10 * one["ours"]))
    rows.append(("one node more among 1,000, to ready", change["change"], NONE))
    show(terminal, rows)
    terminal.table(
        ("WHAT", "NUMBER", "TARGET"),
        [
            ("memory of our side, 1,000 nodes, MiB", f"{small['memory']:.0f}", "-"),
            ("memory of our side, 10,000 nodes, MiB", f"{large['memory']:.0f}",
             f"{10 * small['memory']:.0f}"),
            ("memory of our side, 10,000 nodes by HTTPS, MiB", f"{large_https['memory']:.0f}",
             f"{10 * https['memory']:.0f}"),
            ("one node more among 1,000: nodes listened to", f"{change['listened']:g}", "2"),
            ("  nodes that were told anything", f"{change['told']:g}", "2"),
            ("  other nodes' documents rendered", f"{change['others']:g}", "0"),
        ],
    )  # fmt: skip
    terminal.say(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
