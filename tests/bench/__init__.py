"""`make bench`: measured times beside their targets. Nothing here is asserted: machines differ.

Each figure is the median of its runs; a peer, where there is one, runs in the same run from the same package cache.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder.terminal import Terminal, home

PHX = str(Path(sys.executable).with_name("phx"))
NONE = float("nan")


def phx(*words: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([PHX, *words], capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        sys.exit(f"phx {' '.join(words)}: {done.stderr}")
    return done.stdout


def fresh_home(name: str) -> Path:
    """An empty home below ours, with our packages and locks: a warm package cache, and no layer."""
    phx("build", "base")
    here = home() / "bench" / name
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    for kept in ("packages", "locks", "apt"):
        (here / kept).symlink_to(home() / kept)
    return here


def timed(act: Callable[[], object], runs: int = 1) -> float:
    """Seconds, the median of `runs`."""
    seconds = []
    for _ in range(runs):
        started = time.monotonic()
        act()
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def show(terminal: Terminal, rows: list[tuple[str, float, float]]) -> None:
    """(what, seconds, target or NONE) as a table."""

    def cell(value: float, form: str) -> str:
        return "-" if value != value else format(value, form)

    terminal.table(
        ("WHAT", "SECONDS", "TARGET", "OF TARGET"),
        [
            (what, cell(took, "6.2f"), cell(limit, "g"), cell(took / limit, ".2f"))
            for what, took, limit in rows
        ],
    )
