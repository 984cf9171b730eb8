"""A plan's actions carried out on one host. Every part may be done twice; after a death anywhere, run it again.

The order inside one launch makes that true: the disk and the seed are whole before the domain is defined, so a
domain that exists has both; bandwidth is read back and set again whenever it differs. The guard's rules are in force
before the first domain starts, and for nodes that leave until they are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import assert_never

from builder.errors import PhiloxeniaError
from builder.plan import Report
from cluster import domain, network
from cluster.actions import Action, Adjust, Flag, Keep, Launch, Meet, Remove, Replace, Resume
from cluster.contract.enforce import shapes
from cluster.hosts import guarding, store, uplink
from cluster.hosts.policy import Uplink
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.hosts.uplink import Share
from cluster.plan import ClusterPlan, NodePlan
from contextualize import seed

Inscribe = Callable[[NodePlan, Path], None]
"""Writes a node's context into its fresh disk, a file of ours, if nobody in its image applies it."""

AT_ONCE = 4
"""Nodes that are launched side by side: the work is the host's, and short."""


def apply(
    plan: ClusterPlan, actions: Sequence[Action], reach: Reach, hypervisor: Hypervisor, report: Report,
    inscribe: Inscribe,
) -> None:  # fmt: skip
    """Do what `actions` say. Raises the first node's failure after every other node was tried."""
    store.prepare(reach, plan.cluster)
    hypervisor.start_network(network.name(plan.cluster), plan.network_xml)

    def one(action: Action) -> None:
        match action:
            case Launch(node):
                launch(plan, node, reach, hypervisor, inscribe)
                report(f"{node.name} started")
            case Resume(node, was):
                hypervisor.resume(node.domain)
                report(f"{node.name} started again (it was {was})")
            case Adjust(node, _, why, _):
                if why:
                    hypervisor.restart(node.domain, domain.xml(node.machine, node.context))
                    report(f"{node.name} started again: {why}")
            case Replace(node, why):
                relaunch(plan, node, reach, hypervisor, inscribe)
                report(f"{node.name} replaced: {why}")
            case Remove(name, of):
                _remove(name, of, plan.cluster, reach, hypervisor)
                report(f"{name} removed")
            case Keep() | Flag() | Meet():
                pass
            case _:
                assert_never(action)

    failures: list[PhiloxeniaError] = []
    failed: set[str] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for action, done in [(action, pool.submit(one, action)) for action in actions]:
            try:
                done.result()
            except PhiloxeniaError as cause:
                failures.append(cause)
                failed.add(action.node if isinstance(action, Remove) else action.node.name)
    # Those that did start are held to their limits, whatever became of the others.
    shape(plan, reach, failed)
    if failures:
        raise failures[0]


def shape(plan: ClusterPlan, reach: Reach, but: Container[str] = ()) -> list[str]:
    """Hold the bandwidth of every node `but` those; the nodes for which something had to be set."""
    changed = []
    with reach.queues() as queues:
        for node in (n for n in plan.nodes if n.name not in but):
            if queues.ensure(node.machine.tap, *shapes(node.machine.guarantee)):
                changed.append(node.name)
    if plan.uplink and lead_out(plan, reach):
        changed.append("the uplink")
    return changed


def lead_out(plan: ClusterPlan, reach: Reach) -> bool:
    """Let the bridge go on through the host's uplink, every node with its share; whether anything had to change."""
    if plan.uplink is None:
        return False
    return uplink.ensure(reach, plan.uplink, network.bridge(plan.cluster), shares(plan))


def close(plan: ClusterPlan, reach: Reach, lent: Uplink | None) -> None:
    """Let go of the host's uplink if the cluster had it and its file says so no longer."""
    if plan.uplink is None and lent is not None:
        uplink.release(reach, lent.device, network.bridge(plan.cluster))


def shares(plan: ClusterPlan) -> list[Share]:
    """What each node has of the cluster's uplink."""
    return [
        Share(n.machine.mac, n.machine.guarantee.out_guarantee, n.machine.guarantee.out_limit)
        for n in plan.nodes
    ]


def guard(plan: ClusterPlan, reach: Reach, leaving: Collection[str] = ()) -> list[str]:
    """Keep every node to its own addresses, before it starts; the nodes for which something had to be set.

    leaving  nodes that still run and are not in the plan any more: they keep the rules that they have
    """
    taps = {network.tap(plan.cluster, name) for name in leaving}
    changed = guarding.ensure(reach, plan.cluster, plan.senders, taps)
    return [node.name for node in plan.nodes if node.machine.tap in changed]


def relaunch(
    plan: ClusterPlan, node: NodePlan, reach: Reach, hypervisor: Hypervisor, inscribe: Inscribe
) -> None:
    """Another machine for the node, with a fresh disk."""
    _remove(node.name, node.domain, plan.cluster, reach, hypervisor)
    launch(plan, node, reach, hypervisor, inscribe)


def launch(
    plan: ClusterPlan, node: NodePlan, reach: Reach, hypervisor: Hypervisor, inscribe: Inscribe
) -> None:
    """The node's disk, seed and domain; what was left of an earlier one is replaced."""
    m = node.machine
    store.remove_nodes(reach, m.cluster, m.node)
    folder = PurePosixPath(m.kernel).parent
    with store.made_disk(reach, m.cluster, m.node, folder, m.guarantee.disk) as made:
        inscribe(node, made)
    store.put_seed(reach, m.cluster, m.node, seed.iso(plan.seed(node.name, seed.agent())))
    hypervisor.start(node.domain, domain.xml(m, node.context))
    if node.autostart:
        hypervisor.autostart(node.domain, True)


def _remove(name: str, of: str, cluster: str, reach: Reach, hypervisor: Hypervisor) -> None:
    hypervisor.remove(of)
    with reach.queues() as queues:
        queues.remove(network.tap(cluster, name))
    store.remove_nodes(reach, cluster, name)


def remove(
    cluster: str, actions: Sequence[Remove], reach: Reach, hypervisor: Hypervisor, report: Report
) -> None:
    """Take nodes away, with their disks."""
    for action in actions:
        _remove(action.node, action.domain, cluster, reach, hypervisor)
        report(f"{action.node} removed")


def take_down(
    cluster: str, names: Sequence[str], reach: Reach, hypervisor: Hypervisor, report: Report,
    lent: Uplink | None = None,
) -> None:  # fmt: skip
    """Remove every domain, device, network and file of the cluster.

    names  nodes that the ledger knows; what the hypervisor shows beyond them goes too
    """
    seen = {s.mark.node: s.name for s in hypervisor.observe() if s.mark.cluster == cluster}
    everyone = {**{n: domain.name(cluster, n) for n in names}, **seen}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda item: hypervisor.remove(item[1]), sorted(everyone.items())))
    if everyone:
        report(f"{len(everyone)} nodes removed")
    with reach.queues() as queues:
        for node in everyone:
            queues.remove(network.tap(cluster, node))
    if lent is not None:
        uplink.release(reach, lent.device, network.bridge(cluster))
    guarding.remove(reach, cluster)
    hypervisor.remove_network(network.name(cluster))
    store.remove_nodes(reach, cluster, *everyone)
    store.remove_cluster(reach, cluster)
    report(f"network and files of {cluster} removed")
