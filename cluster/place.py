"""Nodes and hosts turned into a placement in which no host's room is ever exceeded, or a NoRoom that says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from builder.errors import NoRoom
from builder.units import show_about, show_rate, show_size
from cluster.contract.terms import Intent
from cluster.domain import Mark
from cluster.guarantee import Guarantee
from cluster.hosts.host import Host
from cluster.hosts.policy import Uplink
from cluster.spec import natural


@dataclass(frozen=True, slots=True)
class Room:
    """What a host can still promise: thousandths of a core, bytes of memory and of disks, bits per second each way."""

    host: str
    cpu: int
    memory: int
    inward: int
    """To its guests."""
    outward: int
    disk: int | None = None
    """None as long as nobody asked the host: then it is not counted."""

    @classmethod
    def of(cls, host: Host, disk: int | None = None) -> Room:
        """All that a host has to promise."""
        return cls(host.name, host.cpu, host.memory, host.network, host.network, disk)

    def less(self, given: Guarantee) -> Room:
        return replace(
            self,
            cpu=self.cpu - given.cpu_guarantee,
            memory=self.memory - given.memory_min,
            inward=self.inward - given.in_guarantee,
            outward=self.outward - given.out_guarantee,
            disk=None if self.disk is None else self.disk - given.disk,
        )

    def holds(self, given: Guarantee) -> bool:
        left = self.less(given)
        return min(left.cpu, left.memory, left.inward, left.outward, left.disk or 0) >= 0

    def __str__(self) -> str:
        disks = "" if self.disk is None else f", {show_about(max(0, self.disk))} of disk"
        return (
            f"{max(0, self.cpu) / 1000:g} cores, {show_size(max(0, self.memory))}{disks} and "
            f"{_rates(self.inward, self.outward)} left"
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
        wanted,
        key=lambda w: (w[0] not in fixed, -w[1].memory_min, -w[1].cpu_guarantee, natural(w[0])),
    )
    placed: dict[str, str] = {}
    for node, given in order:
        hosts = [fixed[node]] if node in fixed else sorted(left)
        home = next((h for h in hosts if h in left and left[h].holds(given)), None)
        if home is None:
            disks = any(r.disk is not None for r in left.values())
            needs = _needs(given, disks)
            raise NoRoom(f"no host for {node}: needs {needs}", _roomiest(left.values()))
        left[home] = left[home].less(given)
        placed[node] = home
    return placed


def left(whole: Room, marks: Iterable[Mark], intents: Iterable[Intent] = (), but: str = "") -> Room:
    """What is left of all that a host has. `marks` are of all domains that share its machine.

    intents  changes that somebody did not finish: of those nodes the larger of both guarantees is counted
    but      a cluster that is not counted, since it is placed anew
    """
    room, open_ = whole, {(i.cluster, i.node): i for i in intents}
    for mark in marks:
        if mark.cluster != but:
            cut = open_.get((mark.cluster, mark.node))
            room = room.less(cut.most if cut else mark.guarantee)
    return room


def admit(room: Room, changes: Iterable[tuple[str, Guarantee, Guarantee]]) -> None:
    """NoRoom naming the first node and resource unless the room holds all (node, before, after) at once.

    What does not grow is never refused: a host that has promised too much already can give some of it back.
    """
    for node, before, after in sorted(changes, key=lambda c: natural(c[0])):
        for what, has, grows in (
            ("cores", room.cpu / 1000, (after.cpu_guarantee - before.cpu_guarantee) / 1000),
            ("memory", room.memory, after.memory_min - before.memory_min),
            ("bandwidth in", room.inward, after.in_guarantee - before.in_guarantee),
            ("bandwidth out", room.outward, after.out_guarantee - before.out_guarantee),
        ):
            if grows > max(0, has):
                asks = {"cores": f"{grows:g} cores", "memory": f"{show_size(int(grows))} of memory"}
                told = asks.get(what) or f"{show_rate(int(grows))} of {what}"
                raise NoRoom(f"{node} asks for {told} more than it has", f"{room.host} has {room}")
        room = replace(
            room,
            cpu=room.cpu + before.cpu_guarantee, memory=room.memory + before.memory_min,
            inward=room.inward + before.in_guarantee, outward=room.outward + before.out_guarantee,
        ).less(after)  # fmt: skip


def lend(host: str, lent: Uplink, promises: Iterable[Guarantee]) -> None:
    """NoRoom if an uplink carries less than the guests whose way it is are guaranteed out of the network."""
    asked = sum(given.out_guarantee for given in promises)
    if asked > lent.promised:
        raise NoRoom(
            f"the nodes' guarantees out of the network are {show_rate(asked)} together",
            f"the uplink of host '{host}' can promise {show_rate(lent.promised)}; lower network.out.guarantee",
        )


def _needs(given: Guarantee, disks: bool) -> str:
    disk = f", {show_size(given.disk)} of disk" if disks else ""
    return (
        f"{given.cpu_guarantee / 1000:g} cores, {show_size(given.memory_min)}{disk} and "
        f"{_rates(given.in_guarantee, given.out_guarantee)}"
    )


def _rates(inward: int, outward: int) -> str:
    told = [show_rate(n) if n > 0 else "0bit" for n in (inward, outward)]
    return told[0] if inward == outward else f"{told[0]} in, {told[1]} out"


def _roomiest(rooms: Iterable[Room]) -> str:
    found = sorted(rooms, key=lambda r: (r.memory, r.cpu, r.host))
    if not found:
        return "there is no host: phx host up"
    return f"roomiest is {found[-1].host} with {found[-1]}"
