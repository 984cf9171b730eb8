"""What a node is promised, in one unit set, mapped to what each driver is told. All of it pure.

Units everywhere: CPU in thousandths of a core, memory and disk in bytes, bandwidth in bits per second, disk
throughput in bytes per second. A promise is enforced or refused: what a driver cannot do is a Refusal, never left out
in silence, and a number is rounded only to the side on which the promise stays true: guarantees up, limits down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from builder.units import show_rate, show_size, show_throughput


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One node's resources. `in_` is to the guest, `out_` from it; `disk_throughput` and `disk_iops` are limits of
    reads and writes together, 0 for none.

    memory_min is what the node has and what is counted; memory_max is how far that can be raised while it runs.
    """

    cpu_guarantee: int
    cpu_limit: int
    memory_min: int
    memory_max: int
    in_guarantee: int
    in_limit: int
    out_guarantee: int
    out_limit: int
    disk: int
    disk_throughput: int = 0
    disk_iops: int = 0

    @property
    def vcpus(self) -> int:
        """As many as the limit can fill."""
        return -(-self.cpu_limit // 1000)


KEYS: Mapping[str, str] = MappingProxyType({
    "cpu.guarantee": "cpu_guarantee", "cpu.limit": "cpu_limit",
    "memory.min": "memory_min", "memory.max": "memory_max",
    "network.in.guarantee": "in_guarantee", "network.in.limit": "in_limit",
    "network.out.guarantee": "out_guarantee", "network.out.limit": "out_limit",
    "disk.size": "disk", "disk.throughput": "disk_throughput", "disk.iops": "disk_iops",
})  # fmt: skip
"""What people write -> field of Guarantee."""
KEY_OF: Mapping[str, str] = MappingProxyType({field: key for key, field in KEYS.items()})


def differing(one: Guarantee, other: Guarantee) -> tuple[str, ...]:
    """The keys in which two guarantees differ."""
    return tuple(k for k, field in KEYS.items() if getattr(one, field) != getattr(other, field))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A promise that cannot be kept: the key as people write it, why, and what to do."""

    key: str
    why: str
    remedy: str


Cgroup = Literal[1, 2]
"""Version of the host's cgroups: which scale its CPU weights have."""

PERIOD = 100_000
"""Microseconds of the CPU bandwidth period (kernel: Documentation/scheduler/sched-bwc.rst)."""
CORE = 1024
"""Weight of one whole core, where the range allows it."""
MOST_SHARES: Mapping[Cgroup, int] = MappingProxyType({1: 262_144, 2: 10_000})


@dataclass(frozen=True, slots=True)
class CpuTune:
    """libvirt's <cputune> of a QEMU domain: weight under contention, and a cap over the whole guest.

    The cap is `global_quota`, not `vcpu_quota`: the emulator's threads count as the guest's (libvirt.md, 2.2).
    """

    shares: int
    quota: int
    period: int = PERIOD

    def __str__(self) -> str:
        return f"cgroup shares {self.shares}, quota {self.quota}/{self.period} us"


@dataclass(frozen=True, slots=True)
class Credit:
    """Xen's credit2: `weight` of each vCPU, `cap` of the whole domain in hundredths of a CPU."""

    weight: int
    cap: int

    def __str__(self) -> str:
        return f"credit2 weight {self.weight}, cap {self.cap}%"


@dataclass(frozen=True, slots=True)
class Balloon:
    """Bytes that the guest has; its balloon holds the rest of what it booted with."""

    memory: int

    def __str__(self) -> str:
        return f"balloon at {show_size(self.memory)}"


@dataclass(frozen=True, slots=True)
class Throttle:
    """QEMU's own limits of the guest's disk: bytes and operations in a second, 0 for none."""

    throughput: int
    iops: int

    def __str__(self) -> str:
        return f"QEMU throttle {_io(self.throughput, self.iops)}"


Setting = CpuTune | Credit | Balloon | Throttle
"""What a hypervisor is told of a guest that is there."""


def cpu_tune(given: Guarantee, cgroup: Cgroup = 1, room: int = 0) -> CpuTune:
    """What holds a QEMU guest's CPU: a weight of 1024 for a core, and microseconds of each period.

    room  what the host promises in all, thousandths of a core. Where so many cores at 1024 each are above the
          kernel's greatest weight, all weights of that host are smaller by the same factor

    Weights are rounded up: n guests have what they were promised while n <= CORE * cores that are not promised, or,
    where weights are smaller, a tenth of the greatest weight. libvirt 9 writes shares unchanged to cpu.weight of
    cgroup v2 (vircgroupv2.c), so they must be in its range 1..10000 already; v1 takes 2..262144. Quotas begin at
    1000 us, which is the least that can be written.
    """
    most = MOST_SHARES[cgroup]
    core = min(CORE * 1000, most * 1_000_000 // room if room else CORE * 1000)
    shares = -(-given.cpu_guarantee * core // 1_000_000)
    least = 2 if cgroup == 1 else 1
    return CpuTune(min(most, max(least, shares)), max(1000, given.cpu_limit * PERIOD // 1000))


def xen_cpu(given: Guarantee) -> Credit:
    """What holds a Xen guest's CPU: 1024 for a core, shared out among its vCPUs, and a cap in whole percent.

    credit2 gives every vCPU the domain's weight (xen/common/sched/credit2.c, csched2_alloc_udata): a guest with two
    would have twice the share. So a guarantee of several vCPUs is there when all of them are busy; one alone has its
    part of it, and what is idle. Weights are rounded up, the cap down: see `refusals`. Range 1..65535 is never left,
    since a guarantee is at most a whole core for each vCPU.
    """
    weight = -(-given.cpu_guarantee * CORE // (1000 * given.vcpus))
    return Credit(max(1, weight), given.cpu_limit // 10)


VIF_INTERVAL = 50_000
"""Microseconds in which netback gives its credit anew: libvirt's own choice (libxl_conf.c, libxlMakeNic)."""
VIF_EXACT = 40_000
"""The same for rates that are no whole bytes in 50 ms: every whole kbit/s is five bytes in 40 ms."""


def vif_rate(bits: int) -> str:
    """XenStore's form of a rate in bit/s: bytes, microseconds. Exact for whole kbit/s; else rounded down.

    >>> vif_rate(8_192_000), vif_rate(1_001_000)
    ('51200,50000', '5005,40000')
    """
    exact = bits * VIF_INTERVAL % 8_000_000 == 0
    interval = VIF_INTERVAL if exact else VIF_EXACT
    return f"{max(1, bits * interval // 8_000_000)},{interval}"


def vif_bits(text: str) -> int:
    """bit/s of XenStore's form.

    >>> vif_bits("51200,50000")
    8192000
    """
    size, _, interval = text.partition(",")
    return int(size) * 8_000_000 // int(interval)


def vif_average(bits: int) -> int:
    """libvirt's <outbound average=...> in KiB/s, rounded down: it holds until XenStore is told the exact rate."""
    return max(1, bits // 8192)


def settings(
    given: Guarantee, driver: Literal["qemu", "xen"] = "qemu", cgroup: Cgroup = 1, room: int = 0
) -> tuple[Setting, ...]:
    """All that a host's hypervisor is told of one guest; bandwidth is the host's network devices'."""
    if driver == "xen":
        return (xen_cpu(given), Balloon(given.memory_min))
    throttle = Throttle(given.disk_throughput, given.disk_iops)
    return (cpu_tune(given, cgroup, room), Balloon(given.memory_min), throttle)


def refusals(given: Guarantee, driver: Literal["qemu", "xen"] = "qemu") -> tuple[Refusal, ...]:
    """What of a guarantee a driver cannot keep."""
    found = []
    if driver == "xen":
        for key, value in (("throughput", given.disk_throughput), ("iops", given.disk_iops)):
            if value:
                found.append(
                    Refusal(f"disk.{key}", "libvirt's Xen driver has no limits for disks",
                            f"leave disk.{key} out, or use a host with QEMU")
                )  # fmt: skip
        if given.cpu_limit // 10 * 10 < given.cpu_guarantee:
            found.append(
                Refusal("cpu.limit", "Xen caps in hundredths of a core, and the one below is less than the guarantee",
                        "write it with two digits, as in 0.25")
            )  # fmt: skip
        if given.memory_min % (1 << 20) or given.memory_max % (1 << 20):
            found.append(
                Refusal("memory.min", "Xen gives whole MiB", "write a multiple of 1M, as in 512M")
            )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the contract: what was asked of a resource, and the mechanism that holds it."""

    resource: str
    asked: str
    mechanism: str


def contract(
    given: Guarantee, driver: Literal["qemu", "xen"] = "qemu", cgroup: Cgroup = 1, room: int = 0
) -> tuple[Record, ...]:
    """What enforces each promise on a host."""
    cpu = settings(given, driver, cgroup, room)[0]
    memory, network = show_size(given.memory_min), show_rates(given)
    counted = "admission: the host's memory is never promised twice"
    if given.memory_max > given.memory_min:
        memory, counted = f"{memory}..{show_size(given.memory_max)}", f"{counted}; a balloon"
    outward = (
        "htb on an ifb (from the guest)"
        if driver == "qemu"
        else "its back end's rate (from the guest)"
    )
    records = [
        Record("cpu", f"{given.cpu_guarantee / 1000:g}..{given.cpu_limit / 1000:g} cores", str(cpu)),
        Record("memory", memory, counted),
        Record("network", network, f"htb class on the tap (to the guest), {outward}"),
        Record("disk", show_size(given.disk), "size of the overlay's virtual disk"),
    ]  # fmt: skip
    if given.disk_throughput or given.disk_iops:
        records.append(
            Record("disk i/o", f"at most {_io(given.disk_throughput, given.disk_iops)}",
                   "QEMU's own throttle group")
        )  # fmt: skip
    return tuple(records)


def show_rates(given: Guarantee, between: str = "..") -> str:
    """Both directions, in one where they are alike.

    >>> show_rates(Guarantee(500, 1000, 1, 1, 10**6, 10**7, 10**6, 10**7, 1))
    '1Mbit..10Mbit'
    """
    inward = f"{show_rate(given.in_guarantee)}{between}{show_rate(given.in_limit)}"
    outward = f"{show_rate(given.out_guarantee)}{between}{show_rate(given.out_limit)}"
    return inward if inward == outward else f"in {inward}, out {outward}"


def _io(throughput: int, iops: int) -> str:
    told = [show_throughput(throughput)] if throughput else []
    told += [f"{iops} iops"] if iops else []
    return " and ".join(told) or "none"
