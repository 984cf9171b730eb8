"""Looking at a host: what is in force for a cluster, and what is left there of none. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.errors import PhiloxeniaError, WorkFailed
from cluster import deploy, launch, network
from cluster.actions import Adjust, Gentle, Replace
from cluster.contract.enforce import shapes
from cluster.draft import Draft, draft
from cluster.guarantee import settings
from cluster.hosts import guarding, store, uplink
from cluster.hosts.host import LOGS, RUN, STATE, Host
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.hosts.tc import shown
from cluster.plan import ClusterPlan, NodePlan
from cluster.site import Site
from cluster.verify.drift import Code, Drift, Facts, Left, code_of, of_cluster, of_host

QUICK = 60.0
_MAGIC = "514649fb"
"""How a qcow2 begins; its virtual size is the 64 bits at byte 24 (QEMU: docs/interop/qcow2.txt)."""
# A line for each file: its number, a space, its first 32 bytes in hexadecimal.
_HEADS = (
    'n=0; for f; do printf "%s " $n; n=$((n+1)); '
    'od -An -v -tx1 -N32 "$f" 2>/dev/null | tr -d " \\n"; echo; done'
)


@dataclass(frozen=True, slots=True)
class Looked:
    """One cluster as it is: the plan that it should follow, and how it does not."""

    drawn: Draft
    drifts: tuple[Drift, ...]


def cluster(site: Site, name: str, reach: Reach, hypervisor: Hypervisor) -> Looked:
    """Compare a cluster of the ledger with its host. InputError if there is none of that name."""
    spec, document = launch.kept(site, name)
    drawn = draft(site, spec, document, None)
    there = [a.node for a in drawn.actions if isinstance(a, Gentle | Adjust | Replace)]
    links = _links(reach)
    with reach.queues() as queues:
        queued = {
            n.machine.tap: queues.read(n.machine.tap) for n in there if n.machine.tap in links
        }
    facts = Facts(
        links, queued, guarding.compared(reach, name, drawn.plan.senders),
        _disks(reach, {n.name: str(reach.host.outside(store.disk(name, n.name))) for n in there}),
        {n.name: hypervisor.definition(n.domain) for n in there},
        {n.name: _settings(n, reach.host, hypervisor) for n in there},
    )  # fmt: skip
    shall = {n.machine.tap: shown(reach.host, *shapes(n.machine.guarantee)) for n in there}
    found = of_cluster(drawn.plan, drawn.actions, facts, shall)
    cut = (
        Drift(
            Code.CUT, reach.host.name, name, i.node, "a change of what it is promised was cut off"
        )
        for i in site.ledger.papers.intents()
        if i.cluster == name
    )
    return Looked(drawn, (*cut, *found, *_uplink(drawn.plan, reach)))


def _uplink(plan: ClusterPlan, reach: Reach) -> Iterable[Drift]:
    if plan.uplink is None:
        return
    device, bridge = plan.uplink.device, network.bridge(plan.cluster)
    try:
        now = uplink.read(reach, device)
    except WorkFailed as cause:
        yield Drift(Code.UPLINK, plan.host, plan.cluster, "", cause.what, device)
        return
    if now != uplink.wanted(plan.uplink, bridge, deploy.shares(plan)):
        what = f"the uplink {device} does not hold the shares that are promised"
        yield Drift(Code.UPLINK, plan.host, plan.cluster, "", what, device)


def _settings(node: NodePlan, host: Host, hypervisor: Hypervisor) -> list[tuple[Code, str, str]]:
    """(code, what shall be, what is) of each setting that the node's domain does not hold."""
    now = hypervisor.tuned(node.domain)
    held: dict[Code, object] = {Code.CPU: now.cpu, Code.MEMORY: now.balloon, Code.IO: now.throttle}
    return [
        (code_of(setting), str(setting), str(held[code_of(setting)] or "nothing"))
        for setting in settings(node.machine.guarantee, host.driver, host.cgroup, host.cpu)
        if not now.holds(setting)
    ]


def _links(reach: Reach) -> dict[str, str]:
    """Every network device -> the bridge that it is a port of."""
    told = json.loads(reach.run(["ip", "-j", "link", "show"], timeout=QUICK))
    return {link["ifname"]: link.get("master", "") for link in told if link}


def _disks(reach: Reach, paths: Mapping[str, str]) -> dict[str, int | None]:
    """Sizes of virtual disks by their nodes, read from their headers: a Xen host may have no qemu-img."""
    nodes = sorted(paths)
    argv = ["sh", "-c", _HEADS, "sh", *(paths[n] for n in nodes)]
    heads = [line.partition(" ")[2] for line in reach.run(argv, timeout=QUICK).splitlines()]
    return {
        node: int(head[48:64], 16) if head.startswith(_MAGIC) and len(head) == 64 else None
        for node, head in zip(nodes, heads, strict=True)
    }


def leftovers(site: Site, host: Host, reach: Reach, hypervisor: Hypervisor) -> tuple[Drift, ...]:
    """What is on a host and of no cluster of this site."""
    rows = [c.name for c in site.ledger.clusters() if c.host == host.name]
    seen = hypervisor.observe()
    nodes = {(c, n.name) for c in rows for n in site.ledger.nodes(c)}
    nodes |= {(s.mark.cluster, s.mark.node) for s in seen}
    left = Left(
        {s.name: s.mark.cluster for s in seen}, hypervisor.networks(),
        guarding.tables(reach), frozenset(_folders(reach)), frozenset(_links(reach)),
    )  # fmt: skip
    return of_host(host.name, left, rows, (network.tap(*node) for node in nodes))


def _folders(reach: Reach) -> Iterable[str]:
    tops = [str(reach.host.outside(top)) for top in (STATE, RUN, LOGS)]
    said = reach.run(["sh", "-c", 'ls -1 "$@" 2>/dev/null || :', "sh", *tops], timeout=QUICK)
    return {line for line in said.splitlines() if line and not line.endswith(":")}


def silent(host: str, cluster: str, cause: PhiloxeniaError) -> Drift:
    return Drift(Code.SILENT, host, cluster, "", f"the host does not answer: {cause.what}")
