"""One node of a plan turned into libvirt's domain XML with our mark in its metadata: QEMU's here, Xen's in `xen`.

The mark says which cluster and node it is, what it was promised, and the digest of what it was made from. libvirt
gives back other XML than it was given, so two domains are compared by that digest and never by their XML.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from xml.etree import ElementTree

from cluster import xen
from cluster.elements import Crash, add, pinned
from cluster.guarantee import Cgroup, Guarantee, cpu_tune, xen_cpu
from cluster.network import NAMESPACE

CHANNEL = xen.CHANNEL
RUN = "urn:philoxenia:run:1"
"""Namespace of what is noted in a running domain and is no part of its definition."""
_BEFORE = {
    "memory-min": "memory", "memory-max": "memory",
    "in-guarantee": "network-guarantee", "out-guarantee": "network-guarantee",
    "in-limit": "network-limit", "out-limit": "network-limit",
}  # fmt: skip
"""Attributes of marks that were made before directions and balloons had their own."""
_ANY = Guarantee(1, 1, 1024, 1024, 1, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything the hypervisor must know of a node. Paths are as the hypervisor sees them."""

    cluster: str
    node: str
    role: str
    image: str
    guarantee: Guarantee
    mac: str
    machine_id: str
    tap: str
    network: str
    kernel: str
    initrd: str
    cmdline: str
    disk: str
    seed: str
    channel: str
    """The socket of its channel; empty for a node that is reached by HTTPS."""
    log: str
    accelerator: str
    """kvm, or qemu for emulation."""
    partition: str = ""
    """cgroup partition that the host gave us; empty for the driver's own."""
    cgroup: Cgroup = 1
    room: int = 0
    """What the host promises in all, thousandths of a core: see `cpu_tune`."""
    virtualization: str = ""
    """pv, pvh or hvm on Xen; empty on QEMU."""
    crash: Crash = "destroy"
    pin: str = ""
    """The host's CPUs that it stays on, as in 0-1; empty for all."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What our metadata on a domain says."""

    cluster: str
    node: str
    role: str
    digest: str
    context: str
    guarantee: Guarantee


def name(cluster: str, node: str) -> str:
    """The domain's name: a cluster's name has no dot, so no two pairs share one."""
    return f"{cluster}.{node}"


def digest(machine: Machine) -> str:
    """Of all that would need another machine if it changed. The context has a digest of its own; a guarantee can be
    changed while the machine lives, and so can what becomes of it.
    """
    machine = replace(machine, guarantee=_ANY, cgroup=1, room=0, crash="destroy", pin="")
    bare = ElementTree.tostring(_domain(machine), encoding="unicode") + machine.image
    return hashlib.sha256(bare.encode()).hexdigest()


def xml(machine: Machine, context: str) -> str:
    """The whole XML. `context` is the digest of the node's seed files."""
    root = _domain(machine)
    meta = ElementTree.SubElement(root, "metadata")
    own = Mark(
        machine.cluster, machine.node, machine.role, digest(machine), context, machine.guarantee
    )
    ElementTree.SubElement(meta, f"{{{NAMESPACE}}}node", marking(own))
    ElementTree.register_namespace("phx", NAMESPACE)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def essentials(text: str) -> dict[str, str]:
    """What of a domain's XML makes it the machine that it is, in words that do not depend on who wrote it.

    Of our own XML and of what libvirt has made of it, these are the same until somebody edits it.
    """
    root = ElementTree.fromstring(text)

    def said(path: str) -> str:
        return " ".join((root.findtext(path) or "").split())

    def named(path: str, inner: str, attribute: str) -> str:
        found = (d.find(inner) for d in root.iterfind(path))
        return ", ".join(sorted(e.get(attribute, "") for e in found if e is not None))

    return {
        "memory": said("memory"), "vcpu": said("vcpu"), "kernel": said("os/kernel"), "initrd": said("os/initrd"),
        "cmdline": said("os/cmdline"), "disks": named("devices/disk", "source", "file"),
        "MAC": named("devices/interface", "mac", "address"),
        "network": named("devices/interface", "source", "network"),
        "device": named("devices/interface", "target", "dev"),
    }  # fmt: skip


def mark(text: str) -> Mark | None:
    """Our mark in a domain's XML; None when the domain is not ours."""
    found = ElementTree.fromstring(text).find(f"metadata/{{{NAMESPACE}}}node")
    if found is None:
        return None
    got = found.attrib
    names = {f.name: _attribute(f.name) for f in fields(Guarantee)}
    told = {name: got.get(a) or got.get(_BEFORE.get(a, "")) for name, a in names.items()}
    given = Guarantee(**{name: int(value) for name, value in told.items() if value is not None})
    return Mark(got["cluster"], got["node"], got["role"], got["digest"], got["context"], given)


def vouched(text: str) -> bool:
    """Whether the running domain of this XML became ready since it was started: no start comes with that note."""
    return ElementTree.fromstring(text).find(f"metadata/{{{RUN}}}ready") is not None


def _attribute(name: str) -> str:
    return name.replace("_", "-")


def marking(mark: Mark) -> dict[str, str]:
    """The mark's attributes."""
    given = {_attribute(name): str(value) for name, value in asdict(mark.guarantee).items()}
    return {
        "cluster": mark.cluster, "node": mark.node, "role": mark.role,
        "digest": mark.digest, "context": mark.context, **given,
    }  # fmt: skip


def _domain(m: Machine) -> ElementTree.Element:
    if m.virtualization:
        return xen.element(m, name(m.cluster, m.node), xen_cpu(m.guarantee).weight)
    root = ElementTree.Element("domain", {"type": m.accelerator})
    add(root, "name", name(m.cluster, m.node))
    add(root, "memory", str(m.guarantee.memory_max // 1024), unit="KiB")
    add(root, "currentMemory", str(m.guarantee.memory_min // 1024), unit="KiB")
    add(root, "vcpu", str(m.guarantee.vcpus))
    tune, held = add(root, "cputune"), cpu_tune(m.guarantee, m.cgroup, m.room)
    add(tune, "shares", str(held.shares))
    add(tune, "global_period", str(held.period))
    add(tune, "global_quota", str(held.quota))
    pinned(tune, m.guarantee.vcpus, m.pin)
    if m.pin:
        add(tune, "emulatorpin", cpuset=m.pin)
    if m.partition:
        add(add(root, "resource"), "partition", m.partition)
    system = add(root, "os")
    add(system, "type", "hvm", arch="x86_64", machine="pc")
    add(system, "kernel", m.kernel)
    add(system, "initrd", m.initrd)
    # systemd learns the machine id before its first unit, so the journal has it from its first line.
    # An image that has partitions names its root itself.
    own = "" if "root=" in m.cmdline else "root=/dev/vda"
    words = ["console=ttyS0", own, "rw", m.cmdline, f"systemd.machine_id={m.machine_id}"]
    add(system, "cmdline", " ".join(w for w in words if w))
    features = add(root, "features")
    add(features, "acpi")
    if m.accelerator == "kvm":
        add(root, "cpu", mode="host-passthrough", migratable="on")
    add(root, "clock", offset="utc")
    add(root, "on_poweroff", "destroy")
    add(root, "on_reboot", "restart")
    add(root, "on_crash", m.crash)
    devices = add(root, "devices")
    disk = add(devices, "disk", type="file", device="disk")
    add(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    add(disk, "source", file=m.disk)
    add(disk, "target", dev="vda", bus="virtio")
    limits = {
        "total_bytes_sec": m.guarantee.disk_throughput,
        "total_iops_sec": m.guarantee.disk_iops,
    }
    if any(limits.values()):
        tuned = add(disk, "iotune")
        for tag, most in limits.items():
            add(tuned, tag, str(most))
    seed = add(devices, "disk", type="file", device="disk")
    add(seed, "driver", name="qemu", type="raw")
    add(seed, "source", file=m.seed)
    add(seed, "target", dev="vdb", bus="virtio")
    add(seed, "readonly")
    nic = add(devices, "interface", type="network")
    add(nic, "mac", address=m.mac)
    add(nic, "source", network=m.network)
    add(nic, "target", dev=m.tap)
    add(nic, "model", type="virtio")
    # No option ROM: the kernel is given, nothing boots from the network.
    add(nic, "rom", enabled="no")
    serial = add(devices, "serial", type="pty")
    add(serial, "log", file=m.log, append="on")
    add(serial, "target", port="0")
    if m.channel:
        channel = add(devices, "channel", type="unix")
        add(channel, "source", mode="bind", path=m.channel)
        add(channel, "target", type="virtio", name=CHANNEL)
    add(devices, "controller", type="usb", model="none")
    rng = add(devices, "rng", model="virtio")
    add(rng, "backend", "/dev/urandom", model="random")
    add(devices, "memballoon", model="virtio")
    # By it QEMU hears that the guest's kernel has crashed.
    add(devices, "panic", model="isa")
    return root
