"""A node's context as changes to its disk, for an image in which nobody applies it: neither our agent nor cloud-init.

Pure: what is to be written, linked and taken away before the node's first boot. Such a node learns nothing later: what
its role would require or provide at run time, it cannot have.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NETWORKS = ("netplan", "ifupdown", "networkd")
"""Who may read a network's configuration in an image; others are refused."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file with its owner, a user's name or user:group."""

    path: str
    data: bytes
    mode: int
    owner: str = "root"


@dataclass(frozen=True, slots=True)
class Changes:
    """Made in this order: what goes, (folder, how names begin); files; links, (path, target)."""

    cleared: tuple[tuple[str, str], ...]
    files: tuple[Written, ...]
    links: tuple[tuple[str, str], ...]


def changes(seed: Mapping[str, Any], network: str) -> Changes:
    """All that makes the image this node.

    seed     what an agent would read (`Documents.seed`), its document complete
    network  one of NETWORKS
    """
    files = [_written(file) for file in seed["context"]["files"]]
    # Its own machine id, whatever the image has; and no host key that other nodes have too.
    files.append(Written("/etc/machine-id", f"{seed['machine_id']}\n".encode(), 0o444))
    cleared = [("/etc/ssh", "ssh_host_")]
    links: list[tuple[str, str]] = []
    match network:
        case "netplan":
            cleared.append(("/etc/netplan", ""))
            files.append(Written("/etc/netplan/10-philoxenia.yaml", _netplan(seed), 0o600))
        case "ifupdown":
            files.append(Written("/etc/network/interfaces", _interfaces(seed), 0o644))
        case "networkd":
            files += [
                Written(f"/etc/systemd/network/05-philoxenia-{n}.network", _networkd(nic), 0o644)
                for n, nic in enumerate(seed["nics"])
            ]
            unit = "/lib/systemd/system/systemd-networkd.service"
            wants = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
            links.append((wants, unit))
        case _:
            raise ValueError(f"nobody reads a network's configuration as {network!r}")
    return Changes(tuple(cleared), tuple(files), tuple(links))


def _written(file: Mapping[str, Any]) -> Written:
    data = file["text"].encode() if "text" in file else base64.b64decode(file["data"])
    return Written(file["path"], data, int(file["mode"], 8), file["owner"])


def _netplan(seed: Mapping[str, Any]) -> bytes:
    """As JSON, which is YAML. netplan.io, version 2."""
    nics = {
        f"private{n}": {
            "match": {"macaddress": nic["mac"]}, "dhcp4": False, "addresses": [nic["address"]]
        }
        for n, nic in enumerate(seed["nics"])
    }  # fmt: skip
    told = {"network": {"version": 2, "ethernets": nics}}
    return (json.dumps(told, sort_keys=True, indent=1) + "\n").encode()


def _interfaces(seed: Mapping[str, Any]) -> bytes:
    """interfaces(5). It knows no addresses of cards, so names are the kernel's own: eth0 first (net.ifnames=0)."""
    lines = ["auto lo", "iface lo inet loopback"]
    for n, nic in enumerate(seed["nics"]):
        lines += [f"auto eth{n}", f"iface eth{n} inet static", f"    address {nic['address']}"]
    return "".join(f"{line}\n" for line in lines).encode()


def _networkd(nic: Mapping[str, Any]) -> bytes:
    """systemd.network(5)."""
    return (
        f"[Match]\nMACAddress={nic['mac']}\n\n[Network]\nAddress={nic['address']}\n"
        "DHCP=no\nLinkLocalAddressing=no\n"
    ).encode()
