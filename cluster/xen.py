"""One node of a plan turned into libvirt's domain XML for Xen: paravirtual (PV, PVH) or fully virtual (HVM).

What libvirt's Xen driver does with it was read in libvirt 9.0.0, src/libxl (libxl_conf.c), and tried on Xen 4.17. It
reads no <period> or <quota>: the cap is set on the running domain (see hypervisor). Of <bandwidth> it reads the
outbound average alone, which is set through XenStore (see hosts/tc): that can be changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from cluster.elements import add, pinned

if TYPE_CHECKING:
    from cluster.domain import Machine

Virtualization = Literal["pv", "pvh", "hvm"]
CHANNEL = "org.philoxenia.context"
_SYSTEMS: dict[str, tuple[str, str]] = {
    "pv": ("linux", "xenpv"),
    "pvh": ("xenpvh", "xenpvh"),
    "hvm": ("hvm", "xenfv"),
}


def element(m: Machine, name: str, weight: int) -> ElementTree.Element:
    """The domain. `weight` is credit2's, 1 to 65535: it is given as <shares>."""
    root = ElementTree.Element("domain", {"type": "xen"})
    add(root, "name", name)
    # The ceiling. What is above the target the guest gives back; more than this it can never have while it runs.
    add(root, "memory", str(m.guarantee.memory_max // 1024), unit="KiB")
    add(root, "currentMemory", str(m.guarantee.memory_min // 1024), unit="KiB")
    add(root, "vcpu", str(m.guarantee.vcpus))
    tune = add(root, "cputune")
    add(tune, "shares", str(weight))
    pinned(tune, m.guarantee.vcpus, m.pin)
    kind, machine = _SYSTEMS[m.virtualization]
    system = add(root, "os")
    add(system, "type", kind, arch="x86_64", machine=machine)
    add(system, "kernel", m.kernel)
    add(system, "initrd", m.initrd)
    own = "" if "root=" in m.cmdline else "root=/dev/xvda"
    # A disk that was imported says where its root is on QEMU; Xen's front end calls the same disk otherwise.
    theirs = re.sub(r"\broot=/dev/vd(?=[a-z])", "root=/dev/xvd", m.cmdline)
    words = ["console=hvc0", own, "rw", theirs, f"systemd.machine_id={m.machine_id}"]
    add(system, "cmdline", " ".join(w for w in words if w))
    if m.virtualization == "hvm":
        features = add(root, "features")
        for feature in ("acpi", "apic", "pae"):
            add(features, feature)
    add(root, "clock", offset="utc")
    add(root, "on_poweroff", "destroy")
    add(root, "on_reboot", "restart")
    add(root, "on_crash", m.crash)
    devices = add(root, "devices")
    # A QEMU in dom0 serves the thin disk ("qdisk"): the kernel's own back end knows no qcow2. It is the process that
    # serves the channel too, so it costs nothing more.
    disk = add(devices, "disk", type="file", device="disk")
    add(disk, "driver", name="qemu", type="qcow2")
    add(disk, "source", file=m.disk)
    add(disk, "target", dev="xvda", bus="xen")
    seed = add(devices, "disk", type="file", device="disk")
    add(seed, "driver", name="qemu", type="raw")
    add(seed, "source", file=m.seed)
    # Not <readonly>: QEMU 7.2's qdisk does not come up then ("Block node is read-only"). It is the guest's alone.
    add(seed, "target", dev="xvdb", bus="xen")
    nic = add(devices, "interface", type="network")
    add(nic, "mac", address=m.mac)
    add(nic, "source", network=m.network)
    add(nic, "target", dev=m.tap)
    if m.virtualization == "hvm":
        # Else it has an emulated twin besides, whose device in dom0 would have a name of 16 letters: one too many.
        add(nic, "model", type="netfront")
    console = add(devices, "console", type="pty")
    add(console, "target", type="xen", port="0")
    if m.channel:
        channel = add(devices, "channel", type="unix")
        add(channel, "source", mode="bind", path=m.channel)
        add(channel, "target", type="xen", name=CHANNEL)
    return root
