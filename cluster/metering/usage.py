"""Counters of nodes turned into what they use: two looks at a host become rates beside what was promised.

Units: nanoseconds of CPU and bytes in counters; cores, bits per second and bytes per second in rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.domain import Mark
from cluster.guarantee import Guarantee

ENOUGH = 0.9
"""The part of its guarantee that a node must get, whenever it wants all of it, not to be starved."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One running domain's counters since its hypervisor started it. None is what the driver does not tell.

    run       the hypervisor's number of this start of the domain: another one, and the counters began again
    cpu       ns that the guest and its emulator ran; `guest` those of its own CPUs
    waited    ns that its CPUs had work and no core
    memory    bytes that it has now, `memory_limit` those that it can have
    received, sent  bytes on its network, as the guest sees it
    read, written   bytes on its disks
    """

    name: str
    mark: Mark
    run: int
    cpu: int
    memory: int
    memory_limit: int
    received: int | None = None
    sent: int | None = None
    read: int | None = None
    written: int | None = None
    waited: int | None = None
    guest: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What one look at a host showed. `at` is in seconds, of any clock that is not set."""

    at: float
    host: str
    usages: tuple[Usage, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """What a node used between two looks, beside its guarantee.

    cpu, waited     cores
    received, sent  bit/s, as a guarantee counts them
    read, written   bytes/s
    """

    cluster: str
    node: str
    role: str
    host: str
    given: Guarantee
    cpu: float
    waited: float | None
    memory: int
    memory_limit: int
    received: float | None
    sent: float | None
    read: float | None
    written: float | None

    @property
    def starved(self) -> bool:
        """Whether it had work for its whole CPU guarantee and got less than nine tenths of it.

        False as well where the driver does not tell how long it waited.
        """
        promised = self.given.cpu_guarantee / 1000
        if self.waited is None or self.cpu >= ENOUGH * promised:
            return False
        return self.cpu + self.waited >= promised


COUNTERS = ("cpu", "received", "sent", "read", "written", "waited")
"""What of a Usage only grows while the guest runs."""


def grown(before: Usage | None, after: Usage) -> dict[str, int | None]:
    """How much each counter grew. A guest that was started in between has counted from nothing since then."""
    if before is not None and (before.run != after.run or before.cpu > after.cpu):
        before = None
    found: dict[str, int | None] = {}
    for name in COUNTERS:
        now = getattr(after, name)
        then = getattr(before, name) if before else None
        # A device that came in between counts from nothing too.
        found[name] = None if now is None else max(0, now - (then or 0))
    return found


def uses(before: Sample, after: Sample) -> Iterator[Use]:
    """What each node used that was there at both looks, in the order of the later one."""
    seconds = after.at - before.at
    if seconds <= 0:
        raise ValueError("the second look is not later than the first")
    then = {u.name: u for u in before.usages}

    def a_second(count: int | None, unit: float) -> float | None:
        return None if count is None else count * unit / seconds

    for u in after.usages:
        if u.name not in then:
            continue
        more = grown(then[u.name], u)
        yield Use(
            u.mark.cluster, u.mark.node, u.mark.role, after.host, u.mark.guarantee,
            cpu=a_second(more["cpu"], 1e-9) or 0.0, waited=a_second(more["waited"], 1e-9),
            memory=u.memory, memory_limit=u.memory_limit,
            received=a_second(more["received"], 8), sent=a_second(more["sent"], 8),
            read=a_second(more["read"], 1), written=a_second(more["written"], 1),
        )  # fmt: skip


def added(counts: Iterable[int | None]) -> int | None:
    """Their sum; None when there are none that are known."""
    known = [c for c in counts if c is not None]
    return sum(known) if known else None
