"""What a node is promised, in one unit set, mapped to what a driver enforces.

Units everywhere: CPU in thousandths of a core, memory and disk in bytes, bandwidth in bits per second.
A promise is enforced or refused: what a driver cannot do is a Refusal here, never left out in silence.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One node's resources. `network_*` hold for each direction by itself."""

    cpu_guarantee: int
    cpu_limit: int
    memory: int
    network_guarantee: int
    network_limit: int
    disk: int

    @property
    def vcpus(self) -> int:
        """As many as the limit can fill."""
        return -(-self.cpu_limit // 1000)


PERIOD = 100_000
"""Microseconds of the CPU bandwidth period (kernel: Documentation/scheduler/sched-bwc.rst)."""


@dataclass(frozen=True, slots=True)
class CpuTune:
    """libvirt's <cputune> of a QEMU domain: weight under contention, and a cap over the whole guest.

    The cap is `global_quota`, not `vcpu_quota`: the emulator's threads count as the guest's (libvirt.md, 2.2).
    """

    shares: int
    quota: int
    period: int = PERIOD


def cpu_tune(given: Guarantee) -> CpuTune:
    """cgroup weight of 1024 for a core, as Linux and libvirt count; quota in microseconds of each period.

    The kernel takes weights 2..262144 and quotas from 1000 µs.
    """
    shares = min(262_144, max(2, round(given.cpu_guarantee * 1024 / 1000)))
    return CpuTune(shares, max(1000, given.cpu_limit * PERIOD // 1000))


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the contract: what was asked of a resource, and the mechanism that holds it."""

    resource: str
    asked: str
    mechanism: str


def contract(given: Guarantee) -> tuple[Record, ...]:
    """What enforces each promise on a QEMU host."""
    from builder.units import show_rate, show_size

    tune = cpu_tune(given)
    both = f"{show_rate(given.network_guarantee)}..{show_rate(given.network_limit)}"
    return (
        Record("cpu", f"{given.cpu_guarantee / 1000:g}..{given.cpu_limit / 1000:g} cores",
               f"cgroup shares {tune.shares}, quota {tune.quota}/{tune.period} us"),
        Record("memory", show_size(given.memory), "admission: the host's memory is never promised twice"),
        Record("network", both, "htb class on the tap (to the guest), htb on an ifb (from the guest)"),
        Record("disk", show_size(given.disk), "size of the overlay's virtual disk"),
    )  # fmt: skip
