"""What has to happen so that the domains that are seen become the planned ones. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from builder.units import show_size
from cluster import domain
from cluster.domain import Mark
from cluster.guarantee import Guarantee, differing
from cluster.hosts.port import Seen
from cluster.plan import ClusterPlan, NodePlan


@dataclass(frozen=True, slots=True)
class Launch:
    """A node that is not there: disk, seed, domain, bandwidth."""

    node: NodePlan


@dataclass(frozen=True, slots=True)
class Resume:
    """A node that is there and does not run: its disk stays."""

    node: NodePlan
    was: str


@dataclass(frozen=True, slots=True)
class Adjust:
    """A node with another guarantee than it shall have: it is told while it runs, and its disk stays.

    restart  why it has to boot again for it; "" when it has not
    """

    node: NodePlan
    was: Guarantee
    restart: str = ""
    state: str = "running"

    @property
    def keys(self) -> tuple[str, ...]:
        return differing(self.was, self.node.machine.guarantee)


@dataclass(frozen=True, slots=True)
class Replace:
    """A node that would have to be another machine: its disk goes."""

    node: NodePlan
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A node of this cluster that the file no longer names."""

    node: str
    domain: str


@dataclass(frozen=True, slots=True)
class Meet:
    """A node that runs as it shall, and that no phx has seen become ready since it was started: by its host, by
    itself, or by a phx that died.
    """

    node: NodePlan


@dataclass(frozen=True, slots=True)
class Flag:
    """A node that runs as it shall, and of which libvirt shall know something else from now on.

    autostart  that it starts with its host, or no longer
    crash      what becomes of it when its kernel crashes
    pin        the host's CPUs that it stays on
    """

    node: NodePlan
    autostart: bool = False
    crash: bool = False
    pin: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """A node that runs as it shall."""

    node: NodePlan


Gentle = Keep | Flag | Meet
"""What no guest notices."""


def boots(action: Action) -> bool:
    """Whether the node boots for it, and so is not ready before it says so again."""
    return not (isinstance(action, Gentle) or (isinstance(action, Adjust) and not action.restart))


Action = Launch | Resume | Adjust | Replace | Remove | Gentle


def compare(
    plan: ClusterPlan, seen: Iterable[Seen], anew: Collection[str] = ()
) -> tuple[Action, ...]:
    """What turns what is seen into the plan: removals first, then each node in the plan's order.

    anew  nodes that are to be another machine in any case
    """
    there = {s.mark.node: s for s in seen if s.mark.cluster == plan.cluster}
    actions: list[Action] = []
    planned = {n.name for n in plan.nodes}
    actions += [Remove(n, s.name) for n, s in sorted(there.items()) if n not in planned]
    for node in plan.nodes:
        now = there.get(node.name)
        if now is None:
            actions.append(Launch(node))
        elif why := _difference(node, now.mark) or (node.name in anew and "as asked"):
            actions.append(Replace(node, why))
        elif (why := _restart(node, now)) or now.mark.guarantee != node.machine.guarantee:
            actions.append(Adjust(node, now.mark.guarantee, why, now.state))
        elif now.state != "running":
            actions.append(Resume(node, now.state))
        elif not now.vouched:
            actions.append(Meet(node))
        elif flag := _flag(node, now):
            actions.append(flag)
        else:
            actions.append(Keep(node))
    return tuple(actions)


def _flag(node: NodePlan, now: Seen) -> Flag | None:
    m = node.machine
    told = now.autostart != node.autostart, now.crash != m.crash, now.pin != m.pin
    return Flag(node, *told) if any(told) else None


def _restart(node: NodePlan, now: Seen) -> str:
    """Why the node has to boot again to be as planned; "" when it has not."""
    given = node.machine.guarantee
    why = needs_restart(given, now) if now.mark.guarantee != given else ""
    return why or _only_anew(node, now)


def _only_anew(node: NodePlan, now: Seen) -> str:
    """Why a domain has to be defined anew to end otherwise when it crashes, or to stay on other CPUs; "" when it can be
    told, or has not to be.
    """
    crash, pin = now.crash != node.machine.crash, now.pin != node.machine.pin
    if (crash or pin) and now.state in ("off", "crashed"):
        return f"it is {now.state}"
    if crash and node.machine.virtualization:
        return f"crash is {now.crash}, and Xen's driver takes another one at a start only"
    if pin and not node.machine.pin:
        return f"it is pinned to CPUs {now.pin}, and let go at a start only"
    return ""


def needs_restart(given: Guarantee, now: Seen) -> str:
    """Why a node has to boot again to have that guarantee; "" when it can be told while it runs."""
    if now.state in ("off", "crashed"):
        return f"it is {now.state}"
    if given.vcpus > now.vcpus:
        return f"cpu.limit {given.cpu_limit / 1000:g} takes {given.vcpus} CPUs, it booted with {now.vcpus}"
    if given.memory_max > now.memory:
        booted, wanted = show_size(now.memory), show_size(given.memory_max)
        return f"memory.max is {wanted}, it booted with {booted}"
    return ""


def _difference(node: NodePlan, now: Mark) -> str:
    """Why the running node is not the planned one; "" when it is."""
    if now.guarantee.disk != node.machine.guarantee.disk:
        return "disk.size changed"
    if now.digest != domain.digest(node.machine):
        return "its image or its machine changed"
    if now.context != node.context:
        return "its identity changed (address, keys or token)"
    return ""
