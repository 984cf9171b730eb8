"""Addresses, bridge and tap names of a cluster's private network, allotted before anything starts."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

from builder.errors import InputError, Problem
from cluster.spec import ClusterSpec

POOL = ipaddress.IPv4Network("10.77.0.0/16")
"""Where a cluster without a network of its own gets its /24."""

NAMESPACE = "urn:philoxenia:1"


def choose(spec: ClusterSpec, used: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The spec's network, or the first /24 of POOL that overlaps none in use. InputError on an overlap."""
    taken = list(used)
    if spec.network is not None:
        for other in taken:
            if spec.network.overlaps(other):
                raise InputError(
                    Problem("network", f"{spec.network} overlaps {other} of another cluster",
                            "choose another, or leave 'network' out")
                )  # fmt: skip
        return spec.network
    for candidate in POOL.subnets(new_prefix=24):
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise InputError(
        Problem("network", f"no free network is left in {POOL}", "take a cluster down")
    )


def gateway(net: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    """The host's own address: the last one. It is how `phx ssh` enters; nothing is routed beyond it."""
    return net.broadcast_address - 1


def allot(
    spec: ClusterSpec,
    net: ipaddress.IPv4Network,
    known: Mapping[str, ipaddress.IPv4Address] | None = None,
) -> dict[str, ipaddress.IPv4Address]:
    """Address of each node: fixed ones first, then those it has, then the lowest free ones in the order of the names.

    known  addresses that nodes of this cluster have now; nodes that are to leave hold theirs until they are gone
    """
    found: dict[str, ipaddress.IPv4Address] = {}
    for role, r in spec.roles.items():
        if r.address is not None:
            found |= {f"{role}-{n + 1}": r.address + n for n in range(r.count)}
    taken = set(found.values())
    for node, address in (known or {}).items():
        if node not in found and address not in taken and address in net:
            found[node] = address
            taken.add(address)
    free = (a for a in net.hosts() if a != gateway(net) and a not in taken)
    for node, _ in spec.names:
        if node not in found:
            free_one = next(free, None)
            if free_one is None:
                what = f"{net} has no address left for {node}"
                hint = "let the nodes that leave be gone first, or take the cluster down and write a larger network"
                raise InputError(Problem("", what, hint))
            found[node] = free_one
    return {node: found[node] for node, _ in spec.names}


PREFIXES = ("phxb", "phxt", "phxi")
"""What the names of our devices begin with: bridges, taps, and the taps' ifb devices."""


def bridge(cluster: str) -> str:
    """Device names hold 15 characters; a digest keeps clusters with long names apart."""
    return "phxb" + hashlib.sha256(cluster.encode()).hexdigest()[:8]


def tap(cluster: str, node: str) -> str:
    return "phxt" + hashlib.sha256(f"{cluster}/{node}".encode()).hexdigest()[:8]


def ifb(tap_name: str) -> str:
    """The intermediate device that shapes what comes out of the guest behind `tap_name`."""
    return "phxi" + tap_name[4:]


def xml(cluster: str, net: ipaddress.IPv4Network, *, walled: bool) -> str:
    """libvirt's network: a bridge with the host's address, no DHCP, no DNS, nothing forwarded.

    walled  the host lives in a namespace without a way out (a sandbox): `open` spares libvirt's firewall rules,
            which want the iptables program; elsewhere libvirt's isolated mode keeps the network closed.
    """
    root = ElementTree.Element("network")
    ElementTree.SubElement(root, "name").text = name(cluster)
    meta = ElementTree.SubElement(root, "metadata")
    ElementTree.SubElement(meta, f"{{{NAMESPACE}}}network", {"cluster": cluster})
    if walled:
        ElementTree.SubElement(root, "forward", {"mode": "open"})
    ElementTree.SubElement(root, "bridge", {"name": bridge(cluster), "stp": "off", "delay": "0"})
    ElementTree.SubElement(root, "dns", {"enable": "no"})
    ElementTree.SubElement(root, "ip", {"address": str(gateway(net)), "prefix": str(net.prefixlen)})
    ElementTree.register_namespace("phx", NAMESPACE)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def name(cluster: str) -> str:
    return f"phx-{cluster}"
