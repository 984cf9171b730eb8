"""Guests that stay on some of a host's CPUs: whether these carry what is guaranteed to them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import NoRoom
from cluster.hosts.host import cpu_text


@dataclass(frozen=True, slots=True)
class Pinned:
    """A guest that stays on some CPUs. `cores` is its guarantee in thousandths."""

    cores: int
    cpus: frozenset[int]


def carried(host: str, guests: Iterable[Pinned], share: int) -> None:
    """NoRoom for a set of CPUs that does not carry the guests which can be nowhere else.

    share  thousandths of each CPU that the host may promise
    Every union of the sets is looked at: by Hall's theorem (1935) all guests then have their cores at once. 2^n for n
    different sets, of which a host has few.
    """
    there = list(guests)
    unions: set[frozenset[int]] = set()
    for cpus in {guest.cpus for guest in there}:
        unions |= {cpus} | {cpus | other for other in unions}
    for cpus in sorted(unions, key=lambda u: (len(u), sorted(u))):
        asked = sum(guest.cores for guest in there if guest.cpus <= cpus)
        if asked > len(cpus) * share:
            raise NoRoom(
                f"guests that stay on CPUs {cpu_text(cpus)} are guaranteed {asked / 1000:g} cores together",
                f"host '{host}' can promise {len(cpus) * share / 1000:g} there; "
                "pin to more CPUs, or lower cpu.guarantee",
            )
