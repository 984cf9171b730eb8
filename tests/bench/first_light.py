"""Launching: measured through the phx command on this machine and printed as a table.

"Our own share" is the time until the last guest was started, and from the last one's readiness to the end.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from builder.terminal import Terminal
from tests.bench import NONE, PHX, phx, show, timed

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
        started = time.monotonic()
        done = subprocess.run(
            [PHX, "up", str(file), "--host", HOST], capture_output=True, text=True, check=True
        )
        whole.append(time.monotonic() - started)
        stamps = {word: max(float(t) for t in re.findall(rf"^ *([0-9.]+)s \S+ {word}", done.stderr, re.M))
                  for word in ("started", "ready")}  # fmt: skip
        share.append(stamps["started"] + whole[-1] - stamps["ready"])
        again.append(timed(lambda: phx("up", str(file)), 3))
        phx("down", f"bench{count}")
    return statistics.median(whole), statistics.median(share), statistics.median(again)


def measure(terminal: Terminal) -> None:
    terminal.report("building what is missing")
    phx("build", "worker")
    rows: list[tuple[str, float, float]] = []
    rows.append(("phx --help", timed(lambda: phx("--help"), 5), 0.3))
    rows.append(("phx build, nothing changed", timed(lambda: phx("build", "worker"), 5), 1.0))
    rows.append(("phx host up", timed(lambda: phx("host", "up", HOST)), NONE))
    try:
        with tempfile.TemporaryDirectory() as name:
            terminal.report("one node, three times")
            whole, share, again = launch(1, Path(name), 3)
            rows.append(("one node, phx up to ready", whole, 25))
            rows.append(("  our own share of it", share, NONE))
            terminal.report("three nodes, three times")
            whole, share, again = launch(3, Path(name), 3)
            rows.append(("three nodes, phx up to ready", whole, 60))
            rows.append(("  our own share of it", share, 2))
            rows.append(("phx up, nothing changed", again, 1))
    finally:
        phx("host", "down", HOST, "--force")
    show(terminal, rows)
