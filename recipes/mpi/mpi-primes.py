#!/usr/bin/python3
"""mpi-primes LIMIT: count the primes below LIMIT, each MPI rank a part of the numbers; rank 0 tells the sum.

Start it by srun, as in: srun -N2 -n2 mpi-primes 2000000
"""

from __future__ import annotations

import sys
import time

from mpi4py import MPI

CHUNK = 100_000


def small_primes(limit: int) -> list[int]:
    sieve = bytearray([1]) * (limit + 1)
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit + 1, n)))
    return [n for n in range(limit + 1) if sieve[n]]


def count(start: int, end: int, small: list[int]) -> int:
    """Primes in [start, end), by the sieve of Eratosthenes over this part."""
    sieve = bytearray([1]) * (end - start)
    for p in small:
        first = max(p * p, -(-start // p) * p)
        if first < end:
            sieve[first - start :: p] = bytes(len(range(first, end, p)))
    return sum(sieve) - sum(1 for n in range(start, min(2, end)))


def main() -> None:
    limit = int(sys.argv[1])
    world = MPI.COMM_WORLD
    started = time.monotonic()
    small = small_primes(int(limit**0.5) + 1)
    parts = range(world.rank * CHUNK, limit, world.size * CHUNK)
    mine = sum(count(start, min(start + CHUNK, limit), small) for start in parts)
    told = world.gather((MPI.Get_processor_name(), world.rank, mine))
    if told:
        for name, rank, found in told:
            print(f"rank {rank} on {name} counted {found}")
        whole = sum(found for _, _, found in told)
        seconds = time.monotonic() - started
        print(f"{whole} primes below {limit}, {world.size} ranks, {seconds:.1f} s")


if __name__ == "__main__":
    main()
