"""What is seen of a cluster and its host, compared with what shall be: each difference is a Drift with its code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from builder.units import show_rate, show_size
from cluster import domain, guard, network
from cluster.actions import (
    Action,
    Adjust,
    Flag,
    Gentle,
    Keep,
    Launch,
    Meet,
    Remove,
    Replace,
    Resume,
)
from cluster.guarantee import Balloon, CpuTune, Credit, Setting, Throttle
from cluster.guard import Standing
from cluster.hosts.shaping import Shape
from cluster.plan import ClusterPlan, NodePlan

Shapes = tuple[Shape | None, Shape | None]
"""(to the guest, from the guest)"""


class Code(StrEnum):
    """0x is about a node, 2x about what is left on a host, 3x about a host. A code never changes its meaning."""

    GONE = "PHX-V01"
    OFF = "PHX-V02"
    ANOTHER = "PHX-V03"
    EDITED = "PHX-V04"
    CPU = "PHX-V05"
    MEMORY = "PHX-V06"
    IO = "PHX-V07"
    BANDWIDTH = "PHX-V08"
    SOURCE = "PHX-V09"
    TAP = "PHX-V10"
    BRIDGE = "PHX-V11"
    DISK = "PHX-V12"
    AGREED = "PHX-V13"
    UPLINK = "PHX-V14"
    CUT = "PHX-V15"
    DEVICE = "PHX-V21"
    DOMAIN = "PHX-V22"
    NETWORK = "PHX-V23"
    FILES = "PHX-V24"
    SILENT = "PHX-V31"


_FIXED = "phx verify --fix sets it again"
_UP = "phx up with the cluster's file"
_REPLACE = "phx replace gives it another machine; its disk goes"
_OTHERS = "it may be another home's; else remove it by hand"
REMEDY = {
    Code.GONE: _UP, Code.OFF: _UP, Code.ANOTHER: "phx up --replace with the cluster's file; its disk goes",
    Code.EDITED: _REPLACE, Code.CPU: _FIXED, Code.MEMORY: _FIXED, Code.IO: _FIXED, Code.BANDWIDTH: _FIXED,
    Code.SOURCE: _FIXED, Code.TAP: _REPLACE, Code.BRIDGE: _FIXED, Code.UPLINK: _FIXED, Code.DISK: _REPLACE,
    Code.AGREED: _UP, Code.CUT: "phx verify --fix takes it back, or finishes it if it was agreed",
    Code.DEVICE: "phx verify --all --fix removes it", Code.DOMAIN: _OTHERS, Code.NETWORK: _OTHERS,
    Code.FILES: _OTHERS, Code.SILENT: "phx host ls shows what runs",
}  # fmt: skip
MENDS = frozenset(code for code, remedy in REMEDY.items() if "--fix" in remedy)
"""What is mended without a guest that notices."""


def code_of(setting: Setting) -> Code:
    """The code of a domain that does not hold it."""
    match setting:
        case CpuTune() | Credit():
            return Code.CPU
        case Balloon():
            return Code.MEMORY
        case Throttle():
            return Code.IO
        case _:
            assert_never(setting)


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `cluster` and `node` are "" where it is the host's; `thing` is what it is about on the host."""

    code: Code
    host: str
    cluster: str
    node: str
    what: str
    thing: str = ""

    @property
    def remedy(self) -> str:
        return REMEDY[self.code]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in force for one cluster on its host.

    links        every network device of the host -> the bridge that it is a port of, "" for none
    shapes       tap -> what its queues hold
    guard        (what nft makes of the rules that shall be, what is in force)
    disks        node -> size of its virtual disk in bytes; None where there is none
    definitions  node -> its domain's XML as libvirt has it
    settings     node -> (code, what shall be, what is) of whatever its hypervisor holds otherwise
    """

    links: Mapping[str, str]
    shapes: Mapping[str, Shapes]
    guard: tuple[Standing, Standing]
    disks: Mapping[str, int | None]
    definitions: Mapping[str, str]
    settings: Mapping[str, Sequence[tuple[Code, str, str]]] = field(default_factory=dict)


def of_cluster(
    plan: ClusterPlan,
    actions: Iterable[Action],
    facts: Facts,
    shall: Mapping[str, tuple[Shape, Shape]],
) -> tuple[Drift, ...]:
    """All drift of one cluster, node by node.

    shall  tap -> the shapes that are promised
    """
    found: list[Drift] = []

    def told(code: Code, node: str, what: str, thing: str = "") -> None:
        found.append(Drift(code, plan.host, plan.cluster, node, what, thing))

    unguarded = guard.differing(*facts.guard)
    for action in actions:
        match action:
            case Launch(node):
                told(Code.GONE, node.name, "it is promised and is not there")
            case Resume(node, was):
                told(Code.OFF, node.name, f"it is {was}")
            case Replace(node, why):
                told(Code.ANOTHER, node.name, why)
            case Remove(name, _):
                told(Code.ANOTHER, name, "it is there and is not promised")
            case Adjust(node, _, _, state):
                keys = ", ".join(action.keys)
                another = f"its mark says another {keys} than is promised"
                told(Code.AGREED, node.name, another if keys else action.restart)
                if state != "running":
                    told(Code.OFF, node.name, f"it is {state}")
            case Flag(node, autostart, crash, pin):
                what = "starts" if node.autostart else "does not start"
                if autostart:
                    told(Code.AGREED, node.name, f"its file says that it {what} when its host does")
                if crash:
                    told(Code.AGREED, node.name, f"its file says crash: {node.machine.crash}")
                if pin:
                    told(Code.AGREED, node.name, f"its file says cpu.pin: {node.machine.pin}")
            case Keep() | Meet():
                pass
            case _:
                assert_never(action)
        if isinstance(action, Gentle | Adjust | Replace):
            for code, what, thing in _of_node(action.node, facts, shall):
                told(code, action.node.name, what, thing)
            if action.node.guarded and action.node.machine.tap in unguarded:
                what = "its frames are not kept to its own addresses as they shall be"
                told(Code.SOURCE, action.node.name, what)
    known = {n.machine.tap for n in plan.nodes}
    loose = [tap for tap in unguarded if tap not in known]
    if loose or (facts.guard[0].rules != facts.guard[1].rules and not unguarded):
        what = f"the guard's rules know devices of no node: {', '.join(loose)}"
        told(Code.SOURCE, "", what if loose else "the guard's rules are not as they shall be")
    return tuple(found)


def _of_node(
    node: NodePlan, facts: Facts, shall: Mapping[str, tuple[Shape, Shape]]
) -> Iterable[tuple[Code, str, str]]:
    """(code, sentence, thing) of a node that runs."""
    tap, wanted = node.machine.tap, network.bridge(node.machine.cluster)
    if text := facts.definitions.get(node.name):
        planned, now = (
            domain.essentials(t) for t in (domain.xml(node.machine, node.context), text)
        )
        for key in (k for k in planned if planned[k] != now.get(k)):
            what = f"its definition was changed: {key} is {now.get(key)}, not {planned[key]}"
            yield Code.EDITED, what, ""
    for code, asked, held in facts.settings.get(node.name, ()):
        yield code, f"{asked} is promised, {held} is in force", ""
    if tap not in facts.links:
        yield Code.TAP, f"its network device {tap} is not there", tap
    else:
        if facts.links[tap] != wanted:
            where = f"on {facts.links[tap]}" if facts.links[tap] else "on no bridge"
            yield Code.BRIDGE, f"its network device {tap} is {where}, not on {wanted}", tap
        sides = zip(("to", "from"), shall[tap], facts.shapes.get(tap, (None, None)), strict=True)
        for side, want, has in sides:
            if want != has:
                what = f"bandwidth {side} it is {_shape(has)}, {_shape(want)} is promised"
                yield Code.BANDWIDTH, what, tap
    size = facts.disks.get(node.name)
    if size != node.machine.guarantee.disk:
        is_ = "not there" if size is None else f"of {show_size(size)}"
        what = f"its disk is {is_}, {show_size(node.machine.guarantee.disk)} is promised"
        yield Code.DISK, what, ""


def _shape(shape: Shape | None) -> str:
    return (
        "not held" if shape is None else f"{show_rate(shape.guarantee)}..{show_rate(shape.limit)}"
    )


@dataclass(frozen=True, slots=True)
class Left:
    """All that bears our names on one host.

    domains   domain -> cluster that its mark names
    networks  libvirt's name -> cluster
    tables    names of nftables tables
    folders   names of clusters that have files
    devices   names of network devices
    """

    domains: Mapping[str, str]
    networks: Mapping[str, str]
    tables: frozenset[str]
    folders: frozenset[str]
    devices: frozenset[str]


def of_host(
    host: str, left: Left, clusters: Iterable[str], taps: Iterable[str]
) -> tuple[Drift, ...]:
    """What is on a host and of no cluster.

    clusters  those that the ledger knows on this host
    taps      devices of all nodes that the ledger or the hypervisor knows there
    """
    known, mine = set(clusters), set(taps)
    names = {network.name(c) for c in known}
    devices = mine | {network.ifb(tap) for tap in mine} | {network.bridge(c) for c in known}
    ours = [d for d in left.devices if d.startswith(network.PREFIXES)]
    of_networks = {network.bridge(c) for c in left.networks.values()}
    return tuple(
        Drift(code, host, "", "", what, thing)
        for code, what, thing in (
            *((Code.DOMAIN, f"domain {d} is of cluster {c}, which nobody knows", d)
              for d, c in sorted(left.domains.items()) if c not in known),
            *((Code.NETWORK, f"network {n} is of cluster {c}, which nobody knows", n)
              for n, c in sorted(left.networks.items()) if c not in known),
            *((Code.NETWORK, f"nftables table bridge {t} is of a cluster that nobody knows", t)
              for t in sorted(left.tables - names) if t.startswith("phx-")),
            *((Code.FILES, f"there are files of cluster {c}, which nobody knows", c)
              for c in sorted(left.folders - known)),
            *((Code.DEVICE, f"network device {d} is of no node", d)
              for d in sorted(ours) if d not in devices | of_networks),
        )
    )  # fmt: skip
