"""The only door to netlink: a guest's bandwidth, held on the host's side of its network device.

To the guest, packets leave the host through the tap: an htb class there. From the guest they arrive through it, where
nothing can be queued: they are sent on to an intermediate device (ifb) of the tap's own, and an htb class holds them
there. `rate` is the guarantee, `ceil` the limit (tc-htb(8)). libvirt's own <bandwidth> wants sfq and police, which not
every kernel has (libvirt.md, 1), and drops where this one queues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builder.errors import WorkFailed
from cluster.network import ifb

_ALL = 0x0003  # ETH_P_ALL
_UP = 0x1  # IFF_UP


@dataclass(frozen=True, slots=True)
class Shape:
    """bit/s of one direction: what is always there, and what is never passed."""

    guarantee: int
    limit: int


def depth(limit: int) -> int:
    """Packets that a queue may hold: 200 ms of what a guest sends at `limit` bit/s, and no more than 256.

    Up to 25 Mbit/s a TCP sender hands over two full frames at once, above that what it sends in a millisecond (Linux:
    tcp_tso_autosize). So 256 are a quarter of a second at any higher rate.

    >>> depth(5_000_000), depth(100_000_000)
    (41, 256)
    """
    return min(256, max(16, limit // 120_000))


class Shaper:
    """Shapes devices of one network namespace ("" for ours)."""

    def __init__(self, netns: str) -> None:
        from pyroute2 import IPRoute, NetNS

        try:
            self._netlink: Any = NetNS(netns, flags=0) if netns else IPRoute()
        except OSError as cause:
            raise WorkFailed(f"cannot reach the network of namespace '{netns}'") from cause

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Shaper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, tap: str) -> tuple[Shape | None, Shape | None]:
        """(to the guest, from the guest) as the kernel holds them now; None where nothing is set."""
        outer, inner = self._index(tap), self._index(ifb(tap))
        if outer is None:
            return None, None
        sent_on = inner is not None and self._sent_on(outer, inner)
        return self._shape(outer), self._shape(inner) if inner is not None and sent_on else None

    def ensure(self, tap: str, inward: Shape, outward: Shape) -> bool:
        """Hold what comes to the guest and what comes from it; whether anything had to change."""
        if self.read(tap) == (inward, outward):
            return False
        netlink, error = self._netlink, self._error()
        try:
            outer = self._index(tap)
            if outer is None:
                raise WorkFailed(f"there is no network device {tap}", "is its guest running?")
            side = ifb(tap)
            if self._index(side) is None:
                netlink.link("add", ifname=side, kind="ifb")
            inner = self._index(side)
            if inner is None:
                raise WorkFailed(f"the device {side} was made and is not there")
            netlink.link("set", index=inner, state="up")
            for index, shape in ((outer, inward), (inner, outward)):
                # Replaced, not added: libvirt leaves `noqueue` on the tap. An htb of ours stays: a qdisc
                # with classes cannot be replaced by itself, and its classes can be changed under traffic.
                if not self._rooted(index):
                    netlink.tc("replace", "htb", index, 0x10000, default=0x10)
                # A class borrows up to its ceil from its parent only: without one, `rate` would be the limit.
                whole, floor = f"{shape.limit}bit", f"{shape.guarantee}bit"
                netlink.tc(
                    "replace-class", "htb", index, 0x10001, parent=0x10000, rate=whole, ceil=whole
                )
                netlink.tc(
                    "replace-class", "htb", index, 0x10010, parent=0x10001, rate=floor, ceil=whole
                )
                netlink.tc(
                    "replace", "pfifo", index, 0x100000, parent=0x10010, limit=depth(shape.limit)
                )
            self._drop_ingress(outer)
            netlink.tc("add", "ingress", outer, 0xFFFF0000)
            netlink.tc(
                "add-filter", "u32", outer, parent=0xFFFF0000, prio=1, protocol=_ALL,
                keys=["0x0/0x0+0"], target=0x10000,
                action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": inner},
            )  # fmt: skip
        except error as cause:
            raise WorkFailed(f"bandwidth of {tap} cannot be set") from cause
        if (now := self.read(tap)) != (inward, outward):
            raise WorkFailed(
                f"bandwidth of {tap} was set to {(inward, outward)} but reads back as {now}"
            )
        return True

    def remove(self, tap: str) -> None:
        """Take away what is ours and outlives the tap. Silent when nothing is there."""
        side = self._index(ifb(tap))
        if side is not None:
            self._netlink.link("del", index=side)

    def devices(self) -> list[str]:
        """Names of all network devices here."""
        return [link.get_attr("IFLA_IFNAME") for link in self._netlink.get_links()]

    def _index(self, name: str) -> int | None:
        found = self._netlink.link_lookup(ifname=name)
        return found[0] if found else None

    def _rooted(self, index: int) -> bool:
        return any(
            q["handle"] == 0x10000 and q.get_attr("TCA_KIND") == "htb"
            for q in self._netlink.get_qdiscs(index=index)
        )

    def _drop_ingress(self, index: int) -> None:
        for qdisc in self._netlink.get_qdiscs(index=index):
            if qdisc.get_attr("TCA_KIND") == "ingress":
                self._netlink.tc("del", "ingress", index, 0xFFFF0000)

    def _sent_on(self, outer: int, inner: int) -> bool:
        """Whether what comes in at one device is sent to another, which is up and lets it pass."""
        if not any(link["flags"] & _UP for link in self._netlink.get_links(inner)):
            return False
        for found in self._netlink.get_filters(index=outer, parent=0xFFFF0000):
            told = found.get_attr("TCA_OPTIONS")
            actions = told.get_attr("TCA_U32_ACT") if hasattr(told, "get_attr") else None
            for _, action in actions["attrs"] if actions else ():
                parms = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
                if parms and parms["ifindex"] == inner:
                    return True
        return False

    def _shape(self, index: int) -> Shape | None:
        """None unless all packets of the device go through our class, and that one may borrow up to its ceil."""
        rooted = self._rooted(index)
        rates = {}
        for item in self._netlink.get_classes(index=index):
            if item.get_attr("TCA_KIND") == "htb":
                parms = item.get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
                rates[item["handle"]] = (parms["rate"] * 8, parms["ceil"] * 8)
        if not rooted or 0x10001 not in rates or 0x10010 not in rates:
            return None
        (whole, _), (floor, most) = rates[0x10001], rates[0x10010]
        return Shape(floor, most) if whole == most else None

    @staticmethod
    def _error() -> type[Exception]:
        from pyroute2.netlink.exceptions import NetlinkError

        return NetlinkError  # type: ignore[no-any-return]
