"""The allotted addresses of a cluster's guests turned into rules by which each speaks for itself only.

One nftables table of the bridge family for each cluster, replaced as a whole (`nft -f` is one transaction). What comes
in through a guest's tap passes if its Ethernet, ARP, IPv4 and IPv6 senders are the guest's own, and goes no further
otherwise, neither to peers nor to the host. A guest gives no addresses or routes to others: no DHCP, no router
advertisements, no redirects. Who is whose stands in sets, keyed by tap: as many rules for a thousand guests as for one.

nft reads back other words than it was given. So what is in force is compared with what nft itself makes of the rules,
loaded in an empty namespace: both as `Standing`, without handles and counters.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster import network
from cluster.guarantee import Record

MECHANISM = "nftables on the bridge: MAC, ARP, IPv4, IPv6 link-local; no DHCP, no routes"


@dataclass(frozen=True, slots=True, order=True)
class Sender:
    """A guest's device on the host's side, and the addresses that its frames may come from."""

    tap: str
    mac: str
    address: str

    @property
    def link_local(self) -> ipaddress.IPv6Address:
        return link_local(self.mac)


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The address that IPv6 makes of a MAC (EUI-64: RFC 4291, appendix A).

    >>> link_local("52:54:00:12:34:56")
    IPv6Address('fe80::5054:ff:fe12:3456')
    """
    raw = bytearray(bytes.fromhex(mac.replace(":", "")))
    raw[0] ^= 2
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + raw[:3] + b"\xff\xfe" + raw[3:])


_RULES = """
    set refused { type ifname; size 65535; flags dynamic; counter; }

    chain arrive {
        type filter hook prerouting priority filter; policy accept;
        iifname @guests goto frame
    }
    chain frame {
        iifname . ether saddr != @macs goto refuse
        ether type arp goto arp_frame
        ether type ip goto ip_frame
        ether type ip6 goto ip6_frame
        goto refuse
    }
    chain arp_frame {
        arp htype != 1 goto refuse
        arp ptype != ip goto refuse
        arp hlen != 6 goto refuse
        arp plen != 4 goto refuse
        iifname . arp saddr ether != @macs goto refuse
        iifname . arp saddr ip @addresses accept
        # Is my address free? (RFC 5227, 2.1.1)
        arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @addresses accept
        goto refuse
    }
    chain ip_frame {
        udp sport 67 goto refuse
        iifname . ip saddr @addresses accept
        goto refuse
    }
    chain ip6_frame {
        udp sport 547 goto refuse
        icmpv6 type { nd-router-advert, nd-redirect } goto refuse
        # Neighbour Discovery names its target behind 8 bytes: a guest answers for its own (RFC 4861, 4.4) ...
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets goto refuse
        iifname . ip6 saddr @links accept
        # ... and before it has an address, asks after its own (RFC 4862, 5.4) and joins that one's group.
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @targets accept
        ip6 saddr :: icmpv6 type mld2-listener-report accept
        goto refuse
    }
    chain refuse {
        update @refused { iifname } drop
    }
"""


def ruleset(cluster: str, senders: Iterable[Sender]) -> str:
    """nft's input that makes the cluster's table be this and nothing else; without senders, that takes it away.

    The order of senders never matters.
    """
    table = f"table bridge {network.name(cluster)}"
    guests = sorted(senders)
    # The first line makes the table where there is none, as what is not there cannot be deleted.
    text = f"{table}\ndelete {table}\n"
    if not guests:
        return text
    sets = (
        ("guests", "type ifname", [f'"{s.tap}"' for s in guests]),
        ("macs", "type ifname . ether_addr", [f'"{s.tap}" . {s.mac}' for s in guests]),
        ("addresses", "type ifname . ipv4_addr", [f'"{s.tap}" . {s.address}' for s in guests]),
        ("links", "type ifname . ipv6_addr", [f'"{s.tap}" . {s.link_local}' for s in guests]),
        # The same again: nft takes bytes of a payload for a number, and compares it with none but numbers.
        (
            "targets", "typeof iifname . @th,64,128",
            [f'"{s.tap}" . {int(s.link_local):#x}' for s in guests],
        ),
    )  # fmt: skip
    told = "".join(
        f"    set {name} {{ {kind}; elements = {{\n"
        + "".join(f"        {item},\n" for item in items)
        + "    } }\n"
        for name, kind, items in sets
    )
    return f"{text}{table} {{\n{told}{_RULES}}}\n"


@dataclass(frozen=True, slots=True)
class Standing:
    """A cluster's table as nft reads it.

    rules    chains and rules, in their order, each as canonical JSON; empty where there is no table
    allotted  tap -> what the sets hold for it, sorted
    refused  tap -> how many of its frames went no further; not compared
    """

    rules: tuple[str, ...] = ()
    allotted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict, compare=False)


def standing(text: str) -> Standing:
    """What `nft -j list table` wrote; "" for a table that is not there. ValueError if it is not that."""
    rules: list[str] = []
    allotted: dict[str, list[str]] = {}
    refused: dict[str, int] = {}
    for entry in json.loads(text)["nftables"] if text.strip() else ():
        ((kind, told),) = entry.items()
        match kind:
            case "set" if told["name"] == "refused":
                refused = dict(map(_count, told.get("elem", ())))
                rules.append(_canonical("set", {k: told[k] for k in ("name", "type")}))
            case "set":
                for item in told.get("elem", ()):
                    tap = item if isinstance(item, str) else item["concat"][0]
                    allotted.setdefault(tap, []).append(_canonical(told["name"], item))
                rules.append(_canonical("set", {k: told[k] for k in ("name", "type")}))
            case "chain" | "rule":
                rules.append(_canonical(kind, {k: v for k, v in told.items() if k != "handle"}))
    return Standing(tuple(rules), {tap: tuple(sorted(of)) for tap, of in allotted.items()}, refused)


def _canonical(kind: str, told: Any) -> str:
    return json.dumps([kind, told], sort_keys=True, separators=(",", ":"))


def _count(item: Any) -> tuple[str, int]:
    return item["elem"]["val"], item["elem"]["counter"]["packets"]


def differing(shall: Standing, now: Standing) -> tuple[str, ...]:
    """Taps for which what is in force is not what shall be, those that shall have nothing included; sorted."""
    taps = shall.allotted.keys() | now.allotted.keys()
    if shall.rules != now.rules:
        return tuple(sorted(taps))
    return tuple(sorted(t for t in taps if shall.allotted.get(t) != now.allotted.get(t)))


def table_names(text: str) -> frozenset[str]:
    """Of what `nft -j list tables` wrote."""
    return frozenset(e["table"]["name"] for e in json.loads(text)["nftables"] if "table" in e)


def senders(now: Standing) -> dict[str, Sender]:
    """Whom the rules in force know, by tap; those alone that they know whole."""
    found = {}
    for tap, items in now.allotted.items():
        told = {
            name: item["concat"][1]
            for name, item in map(json.loads, items)
            if name in ("macs", "addresses")
        }
        if len(told) == 2:
            found[tap] = Sender(tap, told["macs"], told["addresses"])
    return found


def record(guarded: bool) -> Record:
    """Its line of the contract."""
    if guarded:
        return Record("source", "its own address", MECHANISM)
    return Record("source", "any", "nothing: its frames are not looked at")
