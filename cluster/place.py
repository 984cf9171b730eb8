"""Nodes and hosts turned into a placement in which no host's room is ever exceeded, or a NoRoom that says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from builder.errors import NoRoom
from builder.units import show_rate, show_size
from cluster.guarantee import Guarantee
from cluster.spec import natural


@dataclass(frozen=True, slots=True)
class Room:
    """What a host can still promise: thousandths of a core, bytes, bits per second each way."""

    host: str
    cpu: int
    memory: int
    network: int

    def less(self, given: Guarantee) -> Room:
        return replace(
            self,
            cpu=self.cpu - given.cpu_guarantee,
            memory=self.memory - given.memory,
            network=self.network - given.network_guarantee,
        )

    def holds(self, given: Guarantee) -> bool:
        left = self.less(given)
        return left.cpu >= 0 and left.memory >= 0 and left.network >= 0

    def __str__(self) -> str:
        return (
            f"{self.cpu / 1000:g} cores, {show_size(max(0, self.memory))} and "
            f"{show_rate(max(0, self.network)) if self.network > 0 else '0bit'} left"
        )


def place(
    wanted: Sequence[tuple[str, Guarantee]],
    rooms: Iterable[Room],
    pinned: dict[str, str] | None = None,
) -> dict[str, str]:
    """Host for each node.

    wanted  (node, guarantee) in any order: the result does not depend on it
    rooms   what each host has left, in any order
    pinned  node -> host it runs on already; its room is taken there first
    Raises NoRoom naming the first node without a host and the roomiest host.
    Method: first fit, largest memory first, equals by their numbers, O(N H). May refuse what a search would place.
    """
    left = {r.host: r for r in rooms}
    fixed = pinned or {}
    order = sorted(
        wanted, key=lambda w: (w[0] not in fixed, -w[1].memory, -w[1].cpu_guarantee, natural(w[0]))
    )
    placed: dict[str, str] = {}
    for node, given in order:
        hosts = [fixed[node]] if node in fixed else sorted(left)
        home = next((h for h in hosts if h in left and left[h].holds(given)), None)
        if home is None:
            raise NoRoom(f"no host for {node}: needs {_needs(given)}", _roomiest(left.values()))
        left[home] = left[home].less(given)
        placed[node] = home
    return placed


def _needs(given: Guarantee) -> str:
    return (
        f"{given.cpu_guarantee / 1000:g} cores, {show_size(given.memory)} and "
        f"{show_rate(given.network_guarantee)}"
    )


def _roomiest(rooms: Iterable[Room]) -> str:
    found = sorted(rooms, key=lambda r: (r.memory, r.cpu, r.host))
    if not found:
        return "there is no host: phx host up"
    return f"roomiest is {found[-1].host} with {found[-1]}"
