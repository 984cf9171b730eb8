"""Launching: measured through the phx command on this machine and printed as a table.

Each figure is the median of its runs. "Our own share" is `phx up` to ready less the longest boot, as the guest itself
counts it (seconds since its kernel started when it reported healthy).
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path

from builder.terminal import Terminal
from tests.bench import phx, show, timed

HOST = f"bench{os.getpid()}"
NODE = """    image: worker
    cpu: {guarantee: 0.4, limit: 1}
    memory: 320M
    network: {guarantee: 20Mbit, limit: 100Mbit}
"""


def launch(count: int, folder: Path, runs: int) -> tuple[float, float, float]:
    """(up to ready, our own share, no-op up), medians."""
    file = folder / f"bench{count}.yaml"
    file.write_text(f"cluster: bench{count}\nroles:\n  node:\n    count: {count}\n{NODE}")
    whole, share, again = [], [], []
    for _ in range(runs):
        whole.append(timed(lambda: phx("up", str(file), "--host", HOST)))
        rows = json.loads(phx("ps", f"bench{count}", "--json"))
        share.append(whole[-1] - max(row["uptime"] for row in rows))
        again.append(timed(lambda: phx("up", str(file)), 3))
        phx("down", f"bench{count}")
    return statistics.median(whole), statistics.median(share), statistics.median(again)


def measure(terminal: Terminal) -> None:
    terminal.report("building what is missing")
    phx("build", "worker")
    rows: list[tuple[str, float, float]] = []
    rows.append(("phx --help", timed(lambda: phx("--help"), 5), 0.3))
    rows.append(("phx build, nothing changed", timed(lambda: phx("build", "worker"), 5), 1.0))
    rows.append(("phx host up", timed(lambda: phx("host", "up", HOST)), float("nan")))
    try:
        with tempfile.TemporaryDirectory() as name:
            terminal.report("one node, three times")
            whole, share, again = launch(1, Path(name), 3)
            rows.append(("one node, phx up to ready", whole, 25))
            rows.append(("  our own share of it", share, float("nan")))
            terminal.report("three nodes, three times")
            whole, share, again = launch(3, Path(name), 3)
            rows.append(("three nodes, phx up to ready", whole, 60))
            rows.append(("  our own share of it", share, 2))
            rows.append(("phx up, nothing changed", again, 1))
    finally:
        phx("host", "down", HOST, "--force")
    show(terminal, rows)
