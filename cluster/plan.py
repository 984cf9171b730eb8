"""A cluster file, a host, its images and what runs there, turned into what each node shall be and what must be done.

Pure: the same arguments give the same plan, and a plan can be printed and compared. What runs is compared with what
shall be by the digests in its mark, so a plan over a finished cluster holds nothing but `Keep`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from builder.images.manifest import Manifest
from cluster import domain, network
from cluster.domain import Machine, Mark
from cluster.guarantee import Guarantee
from cluster.hosts import store
from cluster.hosts.host import Host
from cluster.hosts.hypervisor import Seen
from cluster.spec import ClusterSpec, Role
from contextualize import context as contexts
from contextualize.context import Context, Member
from contextualize.identity import Identity, Secret, derive, operator_key


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node shall be. `seed` holds secrets and is never printed."""

    machine: Machine
    address: str
    identity: Identity
    seed: Mapping[str, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        return self.machine.node

    @property
    def domain(self) -> str:
        return domain.name(self.machine.cluster, self.machine.node)

    @property
    def context(self) -> str:
        """Digest of the seed's files."""
        told = {name: hashlib.sha256(data).hexdigest() for name, data in self.seed.items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """All nodes, in the order of the cluster file, and their network."""

    cluster: str
    host: str
    network: ipaddress.IPv4Network
    network_xml: str
    nodes: tuple[NodePlan, ...]


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
class Keep:
    """A node that runs as it shall."""

    node: NodePlan


Action = Launch | Resume | Replace | Remove | Keep


def guarantee(role: Role) -> Guarantee:
    return Guarantee(
        role.cpu.guarantee, role.cpu.limit, role.memory, role.network.guarantee, role.network.limit,
        role.disk,
    )  # fmt: skip


def draw(
    spec: ClusterSpec,
    host: Host,
    net: ipaddress.IPv4Network,
    images: Mapping[str, tuple[Manifest, PurePosixPath]],
    secret: Secret,
) -> ClusterPlan:
    """What every node shall be.

    images  the spec's image name -> its manifest and its folder as the host sees it
    """
    addresses = network.allot(spec, net)
    identities = {node: derive(secret, spec.cluster, node) for node, _ in spec.names}
    context = Context(
        cluster=spec.cluster,
        members=tuple(
            Member(identities[node], role, str(addresses[node]), net.prefixlen)
            for node, role in spec.names
        ),
        ssh_to=tuple((name, role.ssh_to) for name, role in spec.roles.items()),
        admit=(operator_key(secret, spec.cluster).public + " operator", *spec.authorized_keys),
        hook_limit=spec.hook_limit,
    )
    nodes = []
    for node, role_name in spec.names:
        role = spec.roles[role_name]
        image, folder = images[role.image]
        machine = Machine(
            cluster=spec.cluster, node=node, role=role_name, image=image.id,
            guarantee=guarantee(role), mac=identities[node].mac,
            machine_id=identities[node].machine_id, tap=network.tap(spec.cluster, node),
            network=network.name(spec.cluster), kernel=str(folder / "vmlinuz"),
            initrd=str(folder / "initrd"), cmdline=image.cmdline,
            disk=str(store.disk(spec.cluster, node)), seed=str(store.seed(spec.cluster, node)),
            channel=str(store.channel(spec.cluster, node)), log=str(store.log(spec.cluster, node)),
            accelerator=host.accelerator or "qemu", partition=host.partition,
        )  # fmt: skip
        nodes.append(
            NodePlan(
                machine, str(addresses[node]), identities[node], contexts.seed_files(context, node)
            )
        )
    walled = host.kind == "sandbox"
    return ClusterPlan(
        spec.cluster, host.name, net, network.xml(spec.cluster, net, walled=walled), tuple(nodes)
    )


def compare(plan: ClusterPlan, seen: Iterable[Seen]) -> tuple[Action, ...]:
    """What turns what is seen into the plan: removals first, then each node in the plan's order."""
    there = {s.mark.node: s for s in seen if s.mark.cluster == plan.cluster}
    actions: list[Action] = []
    planned = {n.name for n in plan.nodes}
    actions += [Remove(n, s.name) for n, s in sorted(there.items()) if n not in planned]
    for node in plan.nodes:
        now = there.get(node.name)
        if now is None:
            actions.append(Launch(node))
        elif why := _difference(node, now.mark):
            actions.append(Replace(node, why))
        elif now.state != "running":
            actions.append(Resume(node, now.state))
        else:
            actions.append(Keep(node))
    return tuple(actions)


def _difference(node: NodePlan, now: Mark) -> str:
    """Why the running node is not the planned one; "" when it is."""
    if now.guarantee != node.machine.guarantee:
        changed = [
            name for name in Guarantee.__slots__
            if getattr(now.guarantee, name) != getattr(node.machine.guarantee, name)
        ]  # fmt: skip
        return f"{', '.join(changed).replace('_', ' ')} changed"
    if now.digest != domain.digest(node.machine):
        return "its image or its machine changed"
    if now.context != node.context:
        return "its context changed (peers, keys or files)"
    return ""
