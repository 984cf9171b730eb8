"""A policy is what somebody decided of a host, as opposed to what it is: the uplink that it lends to a cluster."""

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


def uplink(text: str) -> Uplink:
    """DEVICE:RATE as people write it; ValueError with a hint behind "; ".

    >>> uplink("vxlan7:200Mbit")
    Uplink(device='vxlan7', rate=200000000)
    """
    device, colon, rate = text.rpartition(":")
    if not colon or not device or len(device) > 15 or set(device) & set(" /"):
        raise ValueError(f"'{text}' is not DEVICE:RATE; write it as in eth1:1Gbit")
    return Uplink(device, units.rate(rate))
