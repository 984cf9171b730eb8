"""What a host is: its hypervisor, its kernel, the kinds of guest that it offers, and what its driver cannot do."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from cluster.guarantee import CORE

if TYPE_CHECKING:
    from cluster.hosts.reach import Reach

Mode = Literal["pv", "pvh", "hvm"]
"""A kind of guest: paravirtual, paravirtual with the processor's help, or a whole machine."""

LIMITS = {
    "qemu": (
        "memory grows no further than what a guest was started with",
        "libvirt's own shaping is not used: bandwidth is held by htb on the guest's device",
    ),
    "xen": (
        "a limit of CPU (cap) is no part of a guest's definition: it is set again after each start",
        "quota and period of CPU are ignored; weight and cap are what the scheduler has",
        "bandwidth in a guest's definition holds for what it sends; what it gets is queued in dom0",
        "disk I/O has no limit of the driver's",
        "memory grows no further than what a guest was started with",
        "no snapshots and no guest agent",
    ),
}
"""Hypervisor -> what libvirt's driver cannot do or does not keep (libvirt.md, 2)."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself. Memory in bytes.

    hypervisor  qemu or xen; test and fake for libvirt's own test driver and ours
    cores       whole; of which `own` thousandths are dom0's under contention, by its weight
    free        memory that no guest and no program has; `taken` by guests that run
    types       libvirt's names of what executes guests, as in kvm
    modes       kinds of guest
    kernel      release of the host's, or dom0's, kernel; "" as long as nobody asked
    scheduler   of the hypervisor: credit2; the kernel's, where guests are processes
    limits      what its driver cannot do, in sentences
    """

    hypervisor: str
    version: str
    cores: int
    memory: int
    types: tuple[str, ...]
    modes: tuple[Mode, ...] = ("hvm",)
    free: int = 0
    taken: int = 0
    own: int = 0
    kernel: str = ""
    scheduler: str = "the kernel's"
    limits: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """Hypervisor and version for people."""
        words = {"qemu": "QEMU", "xen": "Xen"}
        return f"{words.get(self.hypervisor, self.hypervisor)} {self.version}".strip()


def modes(capabilities: str) -> tuple[Mode, ...]:
    """The kinds of guest that libvirt's capabilities tell of."""
    names: dict[str, Mode] = {"xen": "pv", "linux": "pv", "xenpvh": "pvh", "hvm": "hvm"}
    told = {e.text or "" for e in ElementTree.fromstring(capabilities).iter("os_type")}
    found = {names[word] for word in told if word in names}
    return tuple(sorted(found, key=("pv", "pvh", "hvm").index))


def facts_of(connection: Any) -> HostFacts:
    """What a libvirt connection tells of its host; raises what that raises."""
    info, capabilities = connection.getInfo(), connection.getCapabilities()
    number, hypervisor = connection.getVersion(), connection.getType().lower()
    types = {d.get("type", "") for d in ElementTree.fromstring(capabilities).iter("domain")}
    free = connection.getFreeMemory()
    if hypervisor == "qemu":  # what the kernel keeps of files is there for guests too
        stats = connection.getMemoryStats(-1)
        free = sum(stats[name] for name in ("free", "buffers", "cached")) << 10
    found = HostFacts(
        hypervisor, f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}", info[2], info[1] << 20,
        tuple(sorted(types)), modes(capabilities), free,
        limits=LIMITS.get(hypervisor, ()),
    )  # fmt: skip
    if hypervisor != "xen":
        return found
    dom0 = connection.lookupByID(0)
    # Of each of its virtual CPUs; 256 when nobody said otherwise. What it is worth, our own guests' weights say.
    weight = dom0.schedulerParameters()["weight"] * dom0.info()[3]
    guests = (domain.info()[1] for domain in connection.listAllDomains() if domain.ID() > 0)
    return replace(
        found,
        own=weight * 1000 // CORE,
        scheduler=dom0.schedulerType()[0],
        taken=sum(guests) << 10,
    )


def with_kernel(found: HostFacts, reach: Reach) -> HostFacts:
    """The same with the release of the host's kernel."""
    far = bool(reach.host.ssh)
    kernel = reach.run(["uname", "-r"], timeout=30).strip() if far else platform.release()
    return replace(found, kernel=kernel)


def room(found: HostFacts, kept: int) -> tuple[int, int]:
    """(thousandths of a core, bytes) that guests may have together.

    kept  bytes that the host keeps for itself where guests are its processes; Xen has taken dom0's away already
    """
    cores = found.cores * 1000
    if found.hypervisor == "xen":
        return max(0, cores - found.own), max(0, found.free + found.taken - OVERHEAD)
    return cores * 9 // 10, max(0, found.memory - kept)


OVERHEAD = 64 << 20
"""Bytes that Xen needs of its own for the guests."""
