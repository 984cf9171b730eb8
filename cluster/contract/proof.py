"""What of every promise is in force now, read back from hypervisor and kernel; and how often something else was."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.units import show_rate, show_size
from cluster import domain, network, occupancy
from cluster.contract import terms
from cluster.contract.enforce import resource, shapes
from cluster.contract.papers import Proof
from cluster.guarantee import Balloon, Guarantee, Setting, Throttle, contract, settings
from cluster.hosts.host import Host
from cluster.hosts.live import Tuned
from cluster.hosts.shaping import Shape
from cluster.hosts.tc import shown
from cluster.plan import guarantee

if TYPE_CHECKING:
    from cluster.site import Site

Shapes = tuple[Shape | None, Shape | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One resource of one node: what its file asks, what was granted, what holds it, and what is in force of that.

    ok  False when something else is in force than was granted; None when there is nothing to be seen
    """

    node: str
    resource: str
    asked: str
    granted: str
    mechanism: str
    measured: str
    ok: bool | None
    violations: int = 0
    violated: str = ""


def compared(
    node: str, asked: Guarantee, granted: Guarantee, host: Host, tuned: Tuned | None, found: Shapes
) -> list[Line]:
    """A node's lines. `tuned` is None for a node that does not run, `found` what the kernel holds of its bandwidth."""
    wanted, said = _texts(asked, host), _texts(granted, host)

    def line(name: str, mechanism: str, measured: str, ok: bool) -> Line:
        told = (measured, ok) if tuned else ("it does not run", None)
        return Line(
            node, name, wanted.get(name, "no limit"), said.get(name, "no limit"), mechanism, *told
        )

    lines = []
    for setting in settings(granted, host.driver, host.cgroup, host.cpu):
        name = resource(setting)
        if name in wanted or name in said:
            measured = _measured(tuned, setting) if tuned else ""
            lines.append(
                line(name, str(setting), measured, tuned is not None and tuned.holds(setting))
            )
    inward, outward = shown(host, *shapes(granted))
    for name, shape, there in (
        ("network in", inward, found[0]),
        ("network out", outward, found[1]),
    ):
        ways = {"network in": "htb class on its tap", "network out": "htb class on an ifb"}
        if host.driver == "xen":
            ways["network out"] = "its back end's rate in XenStore"
        lines.append(line(name, ways[name], _rate(there), there == shape))
    size = tuned.disk if tuned else None
    if size is not None:
        lines.append(line("disk", "the virtual disk's size", show_size(size), size == granted.disk))
    order = ("cpu", "memory", "network in", "network out", "disk", "disk i/o")
    return sorted(lines, key=lambda x: order.index(x.resource))


def look(site: Site, cluster: str) -> list[Line]:
    """Every promise of a cluster beside what is in force, kept in the ledger. Raises EnvironmentLacks, WorkFailed."""
    from cluster import launch

    row = site.ledger.cluster(cluster)
    host = site.ledger.host(row.host)
    spec, _ = launch.kept(site, cluster)
    known = site.ledger.papers.terms(cluster)
    lines: list[Line] = []
    with occupancy.connected(site, host) as (hypervisor, reach), reach.queues() as queues:
        there = {s.mark.node: s for s in hypervisor.observe() if s.mark.cluster == cluster}
        for node, role in spec.names:
            asked = guarantee(spec.roles[role])
            granted = terms.promised(node, role, asked, known)
            runs = node in there and there[node].state not in ("off", "crashed")
            tuned = hypervisor.tuned(domain.name(cluster, node)) if runs else None
            found = queues.read(network.tap(cluster, node)) if runs else (None, None)
            lines += compared(node, asked, granted, host, tuned, found)
    return _kept(site, cluster, lines)


def _kept(site: Site, cluster: str, lines: Iterable[Line]) -> list[Line]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    before = site.ledger.papers.proofs(cluster)
    counted = [with_history(line, before, now) for line in lines]
    site.ledger.papers.prove(cluster, (
        Proof(c.node, c.resource, c.granted, c.mechanism, c.measured, now, c.violations, c.violated)
        for c in counted
    ))  # fmt: skip
    return counted


def with_history(line: Line, before: Mapping[tuple[str, str], Proof], now: str) -> Line:
    """The line with all violations that were ever seen, this one included."""
    was = before.get((line.node, line.resource))
    times, last = (was.violations, was.violated) if was else (0, "")
    if line.ok is False:
        times, last = times + 1, now
    return replace(line, violations=times, violated=last)


def _texts(given: Guarantee, host: Host) -> dict[str, str]:
    """Resource -> the promise as people read it."""
    told = {r.resource: r.asked for r in contract(given, host.driver, host.cgroup, host.cpu)}
    inward, outward = shapes(given)
    return {**told, "network in": _rate(inward), "network out": _rate(outward)}


def _measured(tuned: Tuned, setting: Setting) -> str:
    match setting:
        case Balloon():
            return str(tuned.balloon)
        case Throttle():
            return str(tuned.throttle or "no throttle")
        case _:
            return str(tuned.cpu or "the driver does not tell")


def _rate(shape: Shape | None) -> str:
    if shape is None:
        return "nothing holds it"
    return f"{show_rate(shape.guarantee)}..{show_rate(shape.limit)}"
