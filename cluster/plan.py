"""A cluster file, a host, its images and what runs there, turned into what each node shall be and what must be done.

Pure: the same arguments give the same plan, and a plan can be printed and compared. What runs is compared with what
shall be by the digests in its mark, so a plan over a finished cluster holds nothing but `Keep`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from builder.images.manifest import Manifest
from cluster import domain, network
from cluster.domain import Machine
from cluster.guarantee import Guarantee
from cluster.guard import Sender
from cluster.hosts import store
from cluster.hosts.host import Host
from cluster.hosts.policy import Uplink
from cluster.spec import ClusterSpec, Role
from contextualize.certificate import PORT, certificate
from contextualize.cloudinit import seed_files
from contextualize.context import Context, Member
from contextualize.declared import Declared
from contextualize.exchange import Exchange
from contextualize.identity import Identity, Secret, derive, operator_key
from contextualize.render import Documents


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node shall be. `context` is the digest of the part of its seed that never changes while it lives.

    guarded  whether it may send under its own addresses only
    autostart  whether it starts again when its host does
    """

    machine: Machine
    address: str
    identity: Identity
    context: str
    guarded: bool = True
    autostart: bool = False

    @property
    def name(self) -> str:
        return self.machine.node

    @property
    def role(self) -> str:
        return self.machine.role

    @property
    def domain(self) -> str:
        return domain.name(self.machine.cluster, self.machine.node)

    @property
    def sender(self) -> Sender:
        return Sender(self.machine.tap, self.machine.mac, self.address)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """All nodes, in the order of the cluster file, their network, and what they are told."""

    cluster: str
    host: str
    network: ipaddress.IPv4Network
    network_xml: str
    nodes: tuple[NodePlan, ...]
    documents: Documents = field(repr=False, compare=False)
    uplink: Uplink | None = None
    """The device through which its bridge goes on outside."""

    @property
    def context(self) -> Context:
        return self.documents.context

    @property
    def senders(self) -> tuple[Sender, ...]:
        """Those who are kept to their own addresses."""
        return tuple(n.sender for n in self.nodes if n.guarded)

    def exchange(self, least: Mapping[str, int]) -> Exchange:
        """What the roles declare, with every node as a member. `least` is each role's min."""
        return Exchange(
            {role: self.documents.declared(role) for role in least},
            {n.name: n.role for n in self.nodes}, least,
        )  # fmt: skip

    def seed(self, node: str, agent: bytes = b"") -> dict[str, bytes]:
        """Every file of a node's seed disk, as of now: no late fact is in it. Holds secrets, is never printed.

        agent  our agent's source: it is in the seed of a node whose image has cloud-init instead
        """
        member = self.documents.member(node)
        declared = self.documents.declared(member.role)
        waits = [str(need) for need in declared.requires if not need.late]
        document = self.documents.document(node, missing=waits)
        brought = agent if member.role in self.context.bring else None
        return seed_files(self.cluster, member, self.documents.seed(node, document), brought)


def guarantee(role: Role) -> Guarantee:
    inward, outward = role.network.inward, role.network.outward
    return Guarantee(
        role.cpu.guarantee, role.cpu.limit, role.memory.min, role.memory.max,
        inward.guarantee, inward.limit, outward.guarantee, outward.limit,
        role.disk.size, role.disk.throughput or 0, role.disk.iops or 0,
    )  # fmt: skip


def virtualization(role: Role, host: Host, image: Manifest) -> str:
    """What the role's nodes are: pv, pvh or hvm on a Xen host, "" on QEMU. ValueError "what; what to do" if none.

    auto  PV where Xen itself is emulated: its guests need no second level of emulation; else PVH, which has hardware's
    """
    wanted = role.virtualization
    if host.driver != "xen":
        if wanted != "auto":
            raise ValueError(
                f"host '{host.name}' is no Xen host; write auto, or choose another host"
            )
        return ""
    emulated = host.accelerator == "qemu"
    order = ("pv", "pvh", "hvm") if emulated else ("pvh", "pv", "hvm")
    able = [v for v in order if v in image.virtualization]
    if wanted == "auto":
        both = [v for v in able if v in host.offers and not (emulated and v == "hvm")]
        if both:
            return both[0]
        what = f"host '{host.name}' offers {_listed(host.offers)}, image {image.short} can be {_listed(able)}"
        raise ValueError(f"{what}; choose another image or host")
    if wanted not in host.offers:
        what = f"host '{host.name}' has no {wanted} guests"
        raise ValueError(f"{what}; it offers {_listed(host.offers)}")
    if wanted not in able:
        what = f"image {image.short} cannot be a {wanted} guest"
        raise ValueError(f"{what}; its kernel can be {_listed(able)}")
    if wanted == "hvm" and emulated:
        what = f"host '{host.name}' is emulated: the BIOS of an hvm guest had loaded no kernel there after four minutes"
        raise ValueError(f"{what}; write auto, pv or pvh")
    return wanted


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing of that kind"


def draw(
    spec: ClusterSpec,
    host: Host,
    net: ipaddress.IPv4Network,
    images: Mapping[str, tuple[Manifest, PurePosixPath]],
    secret: Secret,
    declared: Mapping[str, Declared] | None = None,
    known: Mapping[str, ipaddress.IPv4Address] | None = None,
    generation: int = 1,
    promises: Mapping[str, Guarantee] | None = None,
) -> ClusterPlan:
    """What every node shall be.

    images    the spec's image name -> its manifest and its folder as the host sees it
    declared  role -> what it says of deployment
    known     the addresses that nodes have now
    promises  node -> its guarantee, where that is not what its role says
    """
    addresses = network.allot(spec, net, known)
    https = [name for name, role in spec.roles.items() if role.channel == "https"]
    pin = certificate(secret, spec.cluster).pin if https else ""
    identities = {node: derive(secret, spec.cluster, node) for node, _ in spec.names}
    context = Context(
        cluster=spec.cluster,
        members=tuple(
            Member(identities[node], role, str(addresses[node]), net.prefixlen,
                   guarantee(spec.roles[role]).vcpus, spec.roles[role].memory.min >> 20)
            for node, role in spec.names
        ),
        ssh_to=tuple((name, role.ssh_to) for name, role in spec.roles.items()),
        admit=(operator_key(secret, spec.cluster).public + " operator", *spec.authorized_keys),
        hook_limit=spec.hook_limit, generation=generation, declared=dict(declared or {}),
        data=spec.texts,
        parameters={
            name: dict(images[role.image][0].parameters) for name, role in spec.roles.items()
        },
        https={
            name: {"address": str(network.gateway(net)), "port": PORT, "pin": pin} for name in https
        },
        bring=frozenset(
            name for name, role in spec.roles.items()
            if images[role.image][0].contextualization == "cloud-init"
        ),
    )  # fmt: skip
    documents = Documents(context)
    nodes = []
    for node, role_name in spec.names:
        role = spec.roles[role_name]
        image, folder = images[role.image]
        kind = virtualization(role, host, image)
        machine = Machine(
            cluster=spec.cluster, node=node, role=role_name, image=image.id,
            guarantee=(promises or {}).get(node) or guarantee(role), mac=identities[node].mac,
            machine_id=identities[node].machine_id, tap=network.tap(spec.cluster, node),
            network=network.name(spec.cluster), kernel=str(folder / store.kernel(kind)),
            initrd=str(folder / "initrd"), cmdline=image.cmdline,
            disk=str(store.disk(spec.cluster, node)), seed=str(store.seed(spec.cluster, node)),
            channel=str(store.channel(spec.cluster, node)) if role.channel == "virtio" else "",
            log=str(store.log(spec.cluster, node)),
            accelerator=host.accelerator or "qemu", partition=host.partition,
            cgroup=host.cgroup, room=host.cpu, virtualization=kind,
            crash=role.crash, pin=role.cpu.pin,
        )  # fmt: skip
        told = json.dumps(documents.identity(node), sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
        guarded = role.source == "own"
        nodes.append(
            NodePlan(
                machine, str(addresses[node]), identities[node], digest, guarded, role.autostart
            )
        )
    walled = host.kind in ("sandbox", "xen")
    xml = network.xml(spec.cluster, net, walled=walled)
    return ClusterPlan(spec.cluster, host.name, net, xml, tuple(nodes), documents)
