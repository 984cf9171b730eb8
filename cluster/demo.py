"""What `make demo` shows: the user's own commands, each printed before it runs, and how long each part took.

The computation is checked: the number of primes below two million is known.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from builder.errors import WorkFailed, explain
from builder.run import attached, run
from builder.terminal import Terminal, home

HOST = "demo"
FILE = Path(__file__).with_name("examples") / "demo.yaml"
LIMIT, PRIMES = 2_000_000, 148_933
"""pi(2,000,000) = 148,933 (OEIS A006880 gives the powers of ten around it)."""


def main() -> int:
    terminal = Terminal()
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
        run([phx, "host", "down", HOST, "--force"], timeout=60, check=False)

    started = time.monotonic()
    clear()
    try:
        do("host", "host", "up", HOST)
        do("build", "build", "worker")
        do("plan", "plan", str(shown), "--host", HOST)
        do("launch to ready", "up", str(shown), "--host", HOST)
        workers = ["worker-1", "worker-2"]
        terminal.say(
            "\nThe head gives work to the workers, over SSH, by host name, with verified host keys:"
        )
        words = ["ssh", "head-1", "--", "count-primes", str(LIMIT), *workers]
        terminal.say(f"\n$ phx {' '.join(words)}")
        begun = time.monotonic()
        said = run([phx, *words], timeout=120).text
        times["compute"] = time.monotonic() - begun
        terminal.say(said.rstrip())
        if f"{PRIMES} primes below {LIMIT}" not in said:
            raise WorkFailed(f"the cluster did not count {PRIMES} primes below {LIMIT}")
        do("ps", "ps")
        do("down", "down", "demo")
        do("down", "host", "down", HOST)
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
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
