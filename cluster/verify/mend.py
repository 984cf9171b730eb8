"""Drift mended where no guest notices; what is left is seen by looking again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from builder.errors import WorkFailed
from builder.plan import Report
from cluster import deploy, network, occupancy
from cluster.contract.enforce import Enforcer
from cluster.contract.papers import Papers
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.verify import look
from cluster.verify.drift import MENDS, Code, Drift
from cluster.verify.look import Looked

if TYPE_CHECKING:
    from cluster.hosts.host import Host
    from cluster.site import Site

QUICK = 60.0
HELD = (Code.CPU, Code.MEMORY, Code.IO, Code.BANDWIDTH)
"""What makes up a guarantee."""


def cluster(
    looked: Looked, reach: Reach, hypervisor: Hypervisor, papers: Papers, report: Report
) -> None:
    """Set again what is held otherwise than promised. May be done twice, and be cut off anywhere."""
    plan = looked.drawn.plan
    mine = [d for d in looked.drifts if d.code in MENDS]
    for drift in (d for d in mine if d.code is Code.BRIDGE):
        bridge = network.bridge(plan.cluster)
        reach.run(["ip", "link", "set", drift.thing, "master", bridge, "up"], timeout=QUICK)
        report(f"{drift.node} is on the cluster's bridge again")
    if any(d.code is Code.SOURCE for d in mine):
        deploy.guard(plan, reach)
        report(f"guests of {plan.cluster} are kept to their own addresses again")
    if any(d.code is Code.UPLINK for d in mine):
        try:
            deploy.lead_out(plan, reach)
        except WorkFailed as cause:
            report(f"the uplink of {plan.cluster}: {cause.what}")
        else:
            report(f"shares of the uplink of {plan.cluster} set again")
    enforcer = Enforcer(plan.cluster, reach.host, hypervisor, reach, papers, report)
    if any(d.code is Code.CUT for d in mine):
        enforcer.settle()
    broken = {d.node for d in mine if d.code in HELD}
    for node in (n for n in plan.nodes if n.name in broken):
        try:
            changed = enforcer.hold(node.name, node.machine.guarantee)
        except WorkFailed as cause:
            report(f"{node.name}: {cause.what}")  # the others are mended all the same
        else:
            report(f"{node.name}: {', '.join(changed)} set again")


def started(site: Site, host: Host, but: str, report: Report) -> None:
    """Hold the guests that a sandbox started with itself (autostart): nothing there does it without phx. The lock
    `launch` is held.

    but  a cluster that somebody brings up anyway
    """
    names = [c.name for c in site.ledger.clusters() if c.host == host.name and c.name != but]
    if not names:
        return
    with occupancy.connected(site, host) as (hypervisor, reach):
        running = {s.mark.cluster for s in hypervisor.observe() if s.state == "running"}
        for name in (n for n in names if n in running):
            looked = look.cluster(site, name, reach, hypervisor)
            cluster(looked, reach, hypervisor, site.ledger.papers, report)


def host(drifts: Sequence[Drift], reach: Reach, report: Report) -> None:
    """Remove devices that are of no node."""
    for drift in (d for d in drifts if d.code is Code.DEVICE):
        reach.run(["ip", "link", "del", drift.thing], timeout=QUICK)
        report(f"network device {drift.thing} removed")
