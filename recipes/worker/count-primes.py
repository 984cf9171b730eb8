#!/usr/bin/python3
"""Count the primes below N on the named nodes, over SSH by host name.

count-primes N NODE...     on the head: gives each node its share, adds up
count-primes --part LO HI  on a worker: counts the primes in [LO, HI)
"""

import socket
import subprocess
import sys
import time


def count(low, high):
    """Primes in [low, high), by a segmented sieve of Eratosthenes."""
    low = max(low, 2)
    if high <= low:
        return 0
    marks = bytearray([1]) * (high - low)
    for p in range(2, int(high**0.5) + 1):
        first = max(p * p, (low + p - 1) // p * p)
        marks[first - low :: p] = bytes(len(range(first, high, p)))
    return sum(marks)


def main(argv):
    if argv[:1] == ["--part"]:
        print(socket.gethostname(), count(int(argv[1]), int(argv[2])))
        return 0
    limit, nodes = int(argv[0]), argv[1:]
    share = -(-limit // len(nodes))
    started = time.monotonic()
    parts = [
        (node, subprocess.Popen(
            ["ssh", "-o", "BatchMode=yes", node, "count-primes", "--part",
             str(n * share), str(min(limit, (n + 1) * share))],
            stdout=subprocess.PIPE, text=True))
        for n, node in enumerate(nodes)
    ]  # fmt: skip
    total = 0
    for node, process in parts:
        out, _ = process.communicate(timeout=300)
        if process.returncode != 0:
            print(f"count-primes: {node}: exit {process.returncode}", file=sys.stderr)
            return 1
        answered, number = out.split()
        print(f"{answered} counted {number}")
        total += int(number)
    print(f"{total} primes below {limit}, {len(nodes)} nodes, {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
