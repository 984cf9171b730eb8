"""A policy is what somebody decided of a host, as opposed to what it is: the uplink that it lends to a cluster, and how
many times over it promises its disk space.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder import units


@dataclass(frozen=True, slots=True)
class Uplink:
    """A network device of the host that leads outside, and the bit/s that it carries."""

    device: str
    rate: int

    @property
    def others(self) -> int:
        """bit/s that are kept for whoever is no guest."""
        return max(8000, self.rate // 100)

    @property
    def promised(self) -> int:
        """bit/s that guests may be promised together."""
        return self.rate - self.others

    def __str__(self) -> str:
        return f"{self.device} of {units.show_rate(self.rate)}"


SPARE = 1 << 30
"""Bytes of a host's file system that guests' disks never get: logs and images come there too."""
THIN = {"sandbox": 4.0, "xen": 4.0, "libvirt": 1.0}
"""Kind of host -> how many times its disk space it promises as long as nobody decided. Disks are thin: most guests
never fill theirs. On a machine of somebody else what is promised is there.
"""


def overcommit(text: str) -> float:
    """A factor as people write it; ValueError with a hint behind "; ".

    >>> overcommit("1.5")
    1.5
    """
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 100:
        raise ValueError(f"'{text}' is no factor from 1 to 100; write it as in 1.5")
    return factor


def uplink(text: str) -> Uplink:
    """DEVICE:RATE as people write it; ValueError with a hint behind "; ".

    >>> uplink("vxlan7:200Mbit")
    Uplink(device='vxlan7', rate=200000000)
    """
    device, colon, rate = text.rpartition(":")
    if not colon or not device or len(device) > 15 or set(device) & set(" /"):
        raise ValueError(f"'{text}' is not DEVICE:RATE; write it as in eth1:1Gbit")
    return Uplink(device, units.rate(rate))
