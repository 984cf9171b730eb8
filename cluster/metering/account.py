"""What clusters and their owners held and used: moments at which a holding changed, integrated over time.

A node's room is held from its admission until its removal, whether it runs or not: nobody else could have it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise

from cluster.guarantee import Guarantee

Whose = tuple[str, str]
"""(cluster, owner)."""


@dataclass(frozen=True, slots=True)
class Holding:
    """From `time` on, a node holds this; nothing at all once it is released. Units are those of a guarantee."""

    time: datetime.datetime
    cluster: str
    owner: str
    node: str
    cpu: int = 0
    memory: int = 0
    network: int = 0
    disk: int = 0

    @property
    def what(self) -> tuple[str, int, int, int, int]:
        return self.owner, self.cpu, self.memory, self.network, self.disk

    @property
    def released(self) -> bool:
        return not any(self.what[1:])


@dataclass(frozen=True, slots=True)
class Held:
    """Guarantee times seconds: cores, bytes of memory, bit/s of network, bytes of disk."""

    cpu: float = 0.0
    memory: float = 0.0
    network: float = 0.0
    disk: float = 0.0

    def __add__(self, other: Held) -> Held:
        return Held(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Used:
    """CPU in seconds, the others in bytes; as far as somebody looked."""

    cpu: float = 0.0
    received: int = 0
    sent: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Account:
    """One cluster and owner: what was held and what was used. `nodes` is how many hold something at the end."""

    cluster: str
    owner: str
    nodes: int
    held: Held
    used: Used


def hold(cluster: str, owner: str, node: str, given: Guarantee, at: datetime.datetime) -> Holding:
    """What a node with that guarantee holds from then on."""
    return Holding(
        at, cluster, owner, node, given.cpu_guarantee, given.memory_min,
        max(given.in_guarantee, given.out_guarantee), given.disk,
    )  # fmt: skip


def held(
    changes: Iterable[Holding], since: datetime.datetime, until: datetime.datetime
) -> dict[Whose, Held]:
    """The integral over [since, until) of what was held.

    changes  of each node in the order of their time; each holds until the node's next one
    """
    found: dict[Whose, Held] = {}
    for steps in _by_node(changes).values():
        ends = [step.time for step in steps[1:]] + [until]
        for step, end in zip(steps, ends, strict=True):
            seconds = (min(end, until) - max(step.time, since)).total_seconds()
            if seconds > 0 and not step.released:
                whose = step.cluster, step.owner
                found[whose] = found.get(whose, Held()) + Held(
                    step.cpu / 1000 * seconds, step.memory * seconds, step.network * seconds, step.disk * seconds
                )  # fmt: skip
    return found


def accounts(
    changes: Iterable[Holding],
    used: Mapping[Whose, Used],
    since: datetime.datetime,
    until: datetime.datetime,
) -> tuple[Account, ...]:
    """Everything of that time, by cluster and owner: who neither held nor used anything is not there."""
    changes = list(changes)
    sums = held(changes, since, until)
    last = [steps[-1] for steps in _by_node(c for c in changes if c.time < until).values()]
    return tuple(
        Account(
            *whose,
            sum(1 for step in last if not step.released and (step.cluster, step.owner) == whose),
            sums.get(whose, Held()),
            used.get(whose, Used()),
        )
        for whose in sorted(sums.keys() | used.keys())
    )


def _by_node(changes: Iterable[Holding]) -> dict[tuple[str, str], list[Holding]]:
    """(cluster, node) -> its changes. ValueError if one is before the one that it follows."""
    found: dict[tuple[str, str], list[Holding]] = {}
    for change in changes:
        found.setdefault((change.cluster, change.node), []).append(change)
    for steps in found.values():
        if any(later.time < earlier.time for earlier, later in pairwise(steps)):
            raise ValueError("changes of a node are not in the order of their time")
    return found
