"""Queues of a host that netlink does not reach from here: the same htb classes by tc(8) in one batch, and on Xen the
rate of the guest's own device.

To the guest packets leave the host through its device, as everywhere (see shaping). From the guest they come through
Xen's network back end, which lets no more pass than `rate` in XenStore says ("BYTES,MICROSECONDS"; the Linux back end
watches it: drivers/net/xen-netback/xenbus.c, xen_net_rate_changed). The back end holds a limit and no guarantee: that
one stands by admission, as the sum of all guarantees is never above what the host has.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builder.errors import WorkFailed
from cluster.guarantee import vif_bits, vif_rate
from cluster.hosts.shaping import LIMIT_PACKETS, Shape
from cluster.network import ifb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.hosts.host import Host

QUICK = 60.0


class Runs(Protocol):
    """What is needed of a reach."""

    host: Host

    def run(self, argv: Sequence[str], *, timeout: float, data: bytes = b"") -> str: ...


@dataclass(frozen=True, slots=True)
class Device:
    """A guest's network device as XenStore knows it: its back end's folder, and its rate in bit/s."""

    folder: str
    rate: int | None


class Tc:
    """See `Queues`."""

    def __init__(self, reach: Runs) -> None:
        self._reach = reach
        self._xen = reach.host.driver == "xen"

    def read(self, tap: str) -> tuple[Shape | None, Shape | None]:
        inward = self._class(tap)
        if not self._xen:
            return inward, self._class(ifb(tap))
        found = self._device(tap)
        rate = found.rate if found else None
        return inward, None if rate is None else Shape(rate, rate)

    def ensure(self, tap: str, inward: Shape, outward: Shape) -> bool:
        held = vif_bits(vif_rate(outward.limit))
        wanted = (inward, Shape(held, held) if self._xen else outward)
        if self.read(tap) == wanted:
            return False
        self._root(tap, inward)
        if self._xen:
            found = self._device(tap)
            if found is None:
                raise WorkFailed(f"there is no network device {tap}", "is its guest running?")
            self._reach.run(
                ["xenstore-write", f"{found.folder}/rate", vif_rate(outward.limit)], timeout=QUICK
            )
        else:
            self._from_guest(tap, outward)
        if (now := self.read(tap)) != wanted:
            raise WorkFailed(f"bandwidth of {tap} was set to {wanted} but reads back as {now}")
        return True

    def remove(self, tap: str) -> None:
        if not self._xen:
            side = shlex.quote(ifb(tap))
            self._reach.run(["sh", "-c", f"ip link del {side} 2>/dev/null || :"], timeout=QUICK)

    def devices(self) -> list[str]:
        told = json.loads(self._reach.run(["ip", "-j", "link"], timeout=QUICK))
        return [link["ifname"] for link in told]

    def _root(self, device: str, shape: Shape) -> None:
        whole, floor = f"{shape.limit}bit", f"{shape.guarantee}bit"
        lines = [
            f"qdisc replace dev {device} root handle 1: htb default 10",
            f"class replace dev {device} parent 1: classid 1:1 htb rate {whole} ceil {whole}",
            f"class replace dev {device} parent 1:1 classid 1:10 htb rate {floor} ceil {whole}",
            f"qdisc replace dev {device} parent 1:10 handle 10: pfifo limit {LIMIT_PACKETS}",
        ]
        if self._class(device) is not None:
            del lines[0]  # a qdisc with classes cannot be replaced by itself, and need not be
        self._batch(lines)

    def _from_guest(self, tap: str, shape: Shape) -> None:
        side = ifb(tap)
        script = f"ip link show {side} >/dev/null 2>&1 || ip link add {side} type ifb; ip link set {side} up"
        self._reach.run(["sh", "-c", script], timeout=QUICK)
        self._root(side, shape)
        drop = f"tc qdisc del dev {tap} ingress 2>/dev/null || :"
        self._reach.run(["sh", "-c", drop], timeout=QUICK)
        self._batch([
            f"qdisc add dev {tap} ingress",
            f"filter add dev {tap} parent ffff: protocol all prio 1 u32 match u32 0 0 "
            f"action mirred egress redirect dev {side}",
        ])  # fmt: skip

    def _batch(self, lines: list[str]) -> None:
        self._reach.run(["tc", "-batch", "-"], timeout=QUICK, data="\n".join([*lines, ""]).encode())

    def _class(self, device: str) -> Shape | None:
        script = f"tc -j class show dev {shlex.quote(device)} 2>/dev/null || :"
        told = self._reach.run(["sh", "-c", script], timeout=QUICK)
        for item in json.loads(told or "[]"):
            if item.get("handle") == "1:10" and item.get("class") == "htb":
                return Shape(item["rate"] * 8, item["ceil"] * 8)
        return None

    def _device(self, tap: str) -> Device | None:
        text = self._reach.run(
            ["sh", "-c", "xenstore-ls -f /local/domain/0/backend/vif 2>/dev/null || :"],
            timeout=QUICK,
        )
        return devices(text).get(tap)


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
