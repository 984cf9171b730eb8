"""Queues of a host that netlink does not reach from here: the same htb classes by tc(8) in one batch, and on Xen the
rate of the guest's own device.

To the guest packets leave the host through its device, as everywhere (see shaping). From the guest they come through
Xen's network back end, which lets no more pass than `rate` in XenStore says ("BYTES,MICROSECONDS"; the Linux back end
watches it: drivers/net/xen-netback/xenbus.c, xen_net_rate_changed). The back end holds a limit and no guarantee: that
one stands by admission, as the sum of all guarantees is never above what the host has.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builder.errors import WorkFailed
from cluster.guarantee import vif_bits, vif_rate
from cluster.hosts.shaping import Shape, depth
from cluster.network import ifb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.hosts.host import Host

QUICK = 60.0


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Runs(Protocol):
    """What is needed of a reach."""

    host: Host

    def run(self, argv: Sequence[str], *, timeout: float, data: bytes = b"") -> str: ...


@dataclass(frozen=True, slots=True)
class Device:
    """A guest's network device as XenStore knows it: its back end's folder, and its rate in bit/s."""

    folder: str
    rate: int | None


_LOOK = r"""for d in $(ls /sys/class/net); do
case $d in phx[ti]*) echo "device $d"; tc class show dev $d; tc qdisc show dev $d ingress;; esac; done
[ ! -e /proc/xen ] || xenstore-ls -f /local/domain/0/backend/vif 2>/dev/null || :
"""
"""What there is, in one question: under emulation each program that starts costs some 0.1 s."""


class Tc:
    """See `Queues`. One look serves all devices until something is changed."""

    def __init__(self, reach: Runs) -> None:
        self._reach = reach
        self._xen = reach.host.driver == "xen"
        self._seen: str | None = None

    def read(self, tap: str) -> tuple[Shape | None, Shape | None]:
        if self._seen is None:
            self._seen = self._reach.run(["sh", "-c", _LOOK], timeout=QUICK)
        held = classes(self._seen)
        if not self._xen:
            return held.get(tap), held.get(ifb(tap))
        found = devices(self._seen).get(tap)
        rate = found.rate if found else None
        return held.get(tap), None if rate is None else Shape(rate, rate)

    def ensure(self, tap: str, inward: Shape, outward: Shape) -> bool:
        shall = inward, outward = shown(self._reach.host, inward, outward)
        if self.read(tap) == shall:
            return False
        there = classes(self._seen or "")
        script = [f"tc -batch - <<'END'\n{_batch(tap, inward, tap not in there)}END"]
        if self._xen:
            found = devices(self._seen or "").get(tap)
            if found is None:
                raise WorkFailed(f"there is no network device {tap}", "is its guest running?")
            script.append(f"xenstore-write {found.folder}/rate {vif_rate(outward.limit)}")
        else:
            script += _from_guest(tap, outward, ifb(tap) not in there)
        self._seen = self._reach.run(["sh", "-ec", "\n".join([*script, _LOOK])], timeout=QUICK)
        if (now := self.read(tap)) != shall:
            raise WorkFailed(f"bandwidth of {tap} was set to {shall} but reads back as {now}")
        return True

    def remove(self, tap: str) -> None:
        self._seen = None
        if not self._xen:
            side = shlex.quote(ifb(tap))
            self._reach.run(["sh", "-c", f"ip link del {side} 2>/dev/null || :"], timeout=QUICK)

    def devices(self) -> list[str]:
        return self._reach.run(["ls", "/sys/class/net"], timeout=QUICK).split()


def _batch(device: str, shape: Shape, new: bool) -> str:
    whole, floor = f"{shape.limit}bit", f"{shape.guarantee}bit"
    lines = [
        f"qdisc replace dev {device} root handle 1: htb default 10",
        f"class replace dev {device} parent 1: classid 1:1 htb rate {whole} ceil {whole}",
        f"class replace dev {device} parent 1:1 classid 1:10 htb rate {floor} ceil {whole}",
        f"qdisc replace dev {device} parent 1:10 handle 10: pfifo limit {depth(shape.limit)}",
    ]
    # A qdisc with classes cannot be replaced by itself, and need not be.
    return "".join(f"{line}\n" for line in (lines if new else lines[1:]))


def _from_guest(tap: str, shape: Shape, new: bool) -> list[str]:
    side = ifb(tap)
    return [
        f"[ -e /sys/class/net/{side} ] || ip link add {side} type ifb",
        f"ip link set {side} up",
        f"tc -batch - <<'END'\n{_batch(side, shape, new)}END",
        f"tc qdisc del dev {tap} ingress 2>/dev/null || :",
        f"tc qdisc add dev {tap} ingress",
        f"tc filter add dev {tap} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        f"action mirred egress redirect dev {side}",
    ]


def classes(text: str) -> dict[str, Shape]:
    """What our class of each device holds, of what a look said."""
    found = {}
    for part in re.split(r"^device ", text, flags=re.M)[1:]:
        device, _, rest = part.partition("\n")
        shape = htb(rest)
        if shape is not None:
            found[device] = shape
    return found


def shown(host: Host, inward: Shape, outward: Shape) -> tuple[Shape, Shape]:
    """What is read back of these where they are held: over SSH in tc's own steps, from a Xen guest a limit alone."""
    if not host.ssh:
        return inward, outward
    if host.driver == "xen":
        held = vif_bits(vif_rate(outward.limit))
        return _told(inward), Shape(held, held)
    return _told(inward), _told(outward)


def _told(shape: Shape) -> Shape:
    return Shape(told(shape.guarantee), told(shape.limit))


def htb(text: str) -> Shape | None:
    """What our class holds, of what `tc class show` says: Debian 12's tc has no JSON for classes."""
    found = re.search(
        r"^class htb 1:10 .*?\brate (\d+)([KMGT]?)bit ceil (\d+)([KMGT]?)bit", text, re.M
    )
    if found is None:
        return None
    rate, unit, ceil, of = found.groups()
    return Shape(int(rate) * _UNITS[unit], int(ceil) * _UNITS[of])


def told(bits: int) -> int:
    """A rate as tc(8) tells it, rounded down to what it prints (print_rate in its tc_util.c).

    >>> told(12_345_678)
    12345000
    """
    factor = 1
    while bits >= 1000 and not (bits % 1000 and bits < 1_000_000):
        bits, factor = bits // 1000, factor * 1000
    return bits * factor


def devices(text: str) -> dict[str, Device]:
    """Guests' network devices by name, of what `xenstore-ls -f` says of /local/domain/0/backend/vif."""
    told: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        path, equals, value = line.partition(" = ")
        folder, _, key = path.rpartition("/")
        if equals and key in ("vifname", "rate"):
            told.setdefault(folder, {})[key] = value.strip().strip('"')
    return {
        keys["vifname"]: Device(folder, vif_bits(keys["rate"]) if "rate" in keys else None)
        for folder, keys in told.items() if "vifname" in keys
    }  # fmt: skip
