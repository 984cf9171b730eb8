"""A guaranteed minimum for each guest on a device that all share on the way outside: the outside port of a bridge, or a
VXLAN device.

One htb class for each guest, under one of the device's whole rate: `rate` is its guarantee, `ceil` its limit, and what
nobody uses is borrowed in proportion to the guarantees. A frame is its sender's by its Ethernet source, which u32 finds
before the network header (tc-u32(8): offsets count from there), and which the guard has made sure of. All else that
leaves, the host's own included, shares a hundredth.

libvirt's own mechanism, <bandwidth> with a floor, is not used: it wants a network that libvirt routes, and sfq and
police in the kernel. Filters are looked at one after the other: cheap for tens of guests, not for thousands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builder.errors import CommandFailed, InputError, Problem, WorkFailed
from cluster.hosts.policy import Uplink
from cluster.hosts.reach import Reach
from cluster.hosts.shaping import depth
from cluster.hosts.tc import told

QUICK = 60.0
FIRST, MOST = 0x10, 0xFFF
"""Numbers of the guests' classes; an u32 table has no more."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_LOOK = (
    'ip -j link show dev "$1" || exit 3; echo; tc class show dev "$1"; '
    'tc filter show dev "$1" parent 1: 2>/dev/null || :'
)


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """What one guest has of it, in bit/s; `mac` in small letters."""

    mac: str
    guarantee: int
    limit: int


@dataclass(frozen=True, slots=True)
class Held:
    """What is in force on a device.

    bridge    the one that it is a port of, "" for none
    rate      of all together; None where there is no queue of ours
    shares    number of the class -> share
    filtered  whether any filter is there, right or wrong; not compared
    """

    bridge: str = ""
    up: bool = False
    rate: int | None = None
    shares: Mapping[int, Share] = field(default_factory=dict)
    filtered: bool = field(default=False, compare=False)


def wanted(uplink: Uplink, bridge: str, shares: Iterable[Share]) -> Held:
    """What shall be in force, with the rates as tc tells them. The order of shares never matters."""
    limited = (
        Share(s.mac, told(min(s.guarantee, uplink.rate)), told(min(s.limit, uplink.rate)))
        for s in sorted(shares)
    )
    return Held(bridge, True, told(uplink.rate), dict(enumerate(limited, FIRST)))


def batch(uplink: Uplink, shares: Iterable[Share], now: Held) -> str:
    """tc's input that turns what is in force into what shall be. Classes that stay keep their packets."""
    device, lines = f"dev {uplink.device}", []
    if now.rate is None:
        lines.append(f"qdisc replace {device} root handle 1: htb default 2")
    elif now.filtered:
        lines.append(f"filter del {device} parent 1: protocol all prio 1")
    whole = f"ceil {uplink.rate}bit"
    lines.append(f"class replace {device} parent 1: classid 1:1 htb rate {uplink.rate}bit {whole}")
    lines.append(
        f"class replace {device} parent 1:1 classid 1:2 htb rate {uplink.others}bit {whole}"
        f" quantum {_quantum(uplink.others)}"
    )
    guests = dict(enumerate(sorted(shares), FIRST))
    lines += [
        f"class del {device} classid 1:{n:x}" for n in sorted(now.shares.keys() - guests.keys())
    ]
    for n, share in guests.items():
        floor, most = (min(bits, uplink.rate) for bits in (share.guarantee, share.limit))
        digits = share.mac.replace(":", "")
        lines += [
            f"class replace {device} parent 1:1 classid 1:{n:x} htb rate {floor}bit ceil {most}bit"
            f" quantum {_quantum(floor)}",
            f"qdisc replace {device} parent 1:{n:x} handle {n:x}: pfifo limit {depth(most)}",
            f"filter add {device} parent 1: protocol all prio 1 handle 800::{n:x} u32"
            f" match u32 0x{digits[:8]} 0xffffffff at -8 match u16 0x{digits[8:]} 0xffff at -4 flowid 1:{n:x}",
        ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def _quantum(rate: int) -> int:
    """Bytes that a class may send in its turn when it borrows: a hundredth of a second's, at least a full frame.

    htb's own default is larger than it wants itself at rates from 16 Mbit/s (tc-htb(8), r2q).
    """
    return min(200_000, max(1514, rate // 800))


def held(text: str) -> Held:
    """What `_LOOK` wrote."""
    links, _, rest = text.partition("\n")
    (link,) = json.loads(links)
    rates = {
        int(n, 16): (int(rate) * _UNITS[unit], int(ceil) * _UNITS[of])
        for n, rate, unit, ceil, of in re.findall(
            r"^class htb 1:(\w+) .*?\brate (\d+)([KMGT]?)bit ceil (\d+)([KMGT]?)bit", rest, re.M
        )
    }
    macs = {
        int(n, 16): ":".join((high + low)[i : i + 2] for i in range(0, 12, 2))
        for n, high, low in re.findall(
            r"flowid 1:(\w+).*\n\s*match (\w{8})/ffffffff at -8\n\s*match (\w{4})0000/ffff0000 at -4",
            rest,
        )
    }
    shares = {n: Share(macs.get(n, ""), *both) for n, both in rates.items() if n >= FIRST}
    rate = rates[1][0] if 1 in rates and 2 in rates else None
    return Held(link.get("master", ""), "UP" in link["flags"], rate, shares, "fh 800::" in rest)


def read(reach: Reach, device: str) -> Held:
    """What is in force on a device of the host. WorkFailed if there is none of that name."""
    try:
        return held(reach.run(["sh", "-c", _LOOK, "sh", device], timeout=QUICK))
    except CommandFailed as cause:
        if cause.status != 3:
            raise
        what = f"host '{reach.host.name}' has no network device {device}"
        raise WorkFailed(what, "phx host uplink says which one it lends") from cause


def ensure(reach: Reach, uplink: Uplink, bridge: str, shares: Iterable[Share]) -> bool:
    """Let the device be a port of `bridge`, and hold every guest's share; whether anything had to change.

    WorkFailed if there is no such device, it is a port of another bridge, or what was set reads back otherwise.
    """
    guests = list(shares)
    if len(guests) > MOST - FIRST:
        what = f"{len(guests)} guests are more than an uplink can tell apart"
        raise InputError(Problem("uplink", what, f"at most {MOST - FIRST}"))
    now, shall = read(reach, uplink.device), wanted(uplink, bridge, guests)
    if now == shall:
        return False
    if now.bridge not in ("", bridge):
        what = f"{uplink.device} of host '{reach.host.name}' is a port of {now.bridge}"
        raise WorkFailed(what, "an uplink serves one cluster at a time")
    if (now.bridge, now.up) != (shall.bridge, shall.up):
        reach.run(["ip", "link", "set", uplink.device, "master", bridge, "up"], timeout=QUICK)
    reach.run(["tc", "-batch", "-"], timeout=QUICK, data=batch(uplink, guests, now).encode())
    if (again := read(reach, uplink.device)) != shall:
        raise WorkFailed(f"{uplink.device} was set to {shall} and reads back as {again}")
    return True


def release(reach: Reach, device: str, bridge: str) -> None:
    """Let go of the device if it is a port of `bridge`. Silent when there is none."""
    try:
        now = read(reach, device)
    except WorkFailed:
        return
    if now.bridge == bridge:
        script = 'ip link set "$1" nomaster; tc qdisc del dev "$1" root 2>/dev/null || :'
        reach.run(["sh", "-c", script, "sh", device], timeout=QUICK)
