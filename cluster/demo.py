"""What `make demo` shows: a Slurm cluster by the user's own commands, each printed before it runs, and how long each
part took. The computation is checked: the number of primes below twenty million is known.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

from builder.errors import WorkFailed, explain
from builder.run import attached, run
from builder.terminal import Terminal, home

CLUSTER = "slurm"
FILE = Path(__file__).with_name("examples") / "slurm.yaml"
LIMIT, PRIMES = 20_000_000, 1_270_607
"""pi(20,000,000) = 1,270,607 (OEIS A006880 gives the powers of ten around it)."""


def main(xen: bool = False) -> int:
    """`xen`: on an emulated Xen host, with PV guests."""
    terminal = Terminal()
    host = "demo-xen" if xen else "demo"
    start = (
        ["host", "up", "--xen", host, "--memory", "5G", "--cores", "3"]
        if xen
        else ["host", "up", host]
    )
    times: dict[str, float] = {}
    phx = str(Path(sys.executable).with_name("phx"))
    shown = FILE.relative_to(Path.cwd()) if FILE.is_relative_to(Path.cwd()) else FILE

    def do(part: str, *words: str) -> None:
        terminal.say(f"\n$ phx {' '.join(words)}")
        started = time.monotonic()
        status = attached([phx, *words])
        times[part] = times.get(part, 0) + time.monotonic() - started
        if status != 0:
            raise WorkFailed(f"phx {words[0]} ended with {status}")

    def clear() -> None:
        """Whatever an earlier demo left, and what this one made: the host takes all of it with it."""
        run([phx, "host", "down", host, "--force"], timeout=60, check=False)

    def job(part: str, *words: str) -> str:
        """A command on the head, its output shown and returned."""
        line = ["ssh", "head-1", "--", *words]
        terminal.say(f"\n$ phx {shlex.join(line)}")
        begun = time.monotonic()
        said = run([phx, *line], timeout=400).text
        times[part] = times.get(part, 0) + time.monotonic() - begun
        terminal.say(said.rstrip())
        return said

    started = time.monotonic()
    clear()
    try:
        do("host", *start)
        if xen:
            do("host", "host", "show", host)
        do("build", "build", "slurm-head", "mpi")
        do("plan", "plan", str(shown), "--host", host)
        do("launch to ready", "up", str(shown), "--host", host)
        if xen:
            terminal.say("\nThey are guests of a real Xen:")
            config = json.loads(run([phx, "host", "show", host, "--json"], timeout=60).text)["ssh"]
            terminal.say(f"\n$ ssh -F {config} {host} xl list")
            terminal.say(
                run(
                    ["ssh", "-F", config, host, "xl list; xl sched-credit2"], timeout=60
                ).text.rstrip()
            )
        terminal.say("\nThe head knows its workers; they have its key and its home directories:")
        job("jobs", "sinfo")
        job("jobs", "srun", "-N2", "hostname")
        said = job("jobs", "srun", "-N2", "-n2", "mpi-primes", str(LIMIT))
        if f"{PRIMES} primes below {LIMIT}" not in said:
            raise WorkFailed(f"the cluster did not count {PRIMES} primes below {LIMIT}")
        do("one more worker", "scale", CLUSTER, "worker=3")
        said = job("jobs", "srun", "-N3", "hostname")
        if sorted(said.split()) != ["worker-1", "worker-2", "worker-3"]:
            raise WorkFailed("the job did not run on all three workers")
        do("down", "down", CLUSTER)
        do("down", "host", "down", host)
    except WorkFailed as error:
        terminal.error(explain(error))
        return error.exit_code
    finally:
        with contextlib.suppress(Exception):
            clear()
    terminal.say("\nHow long each part took:")
    terminal.table(
        ("PART", "SECONDS"), [(part, f"{seconds:6.1f}") for part, seconds in times.items()]
    )
    whole = time.monotonic() - started
    terminal.say(f"in all {whole:.0f} s; images and layers stay in {home()}, nothing else does")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(xen="--xen" in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
