"""Frames of every kind through a bridge under the guard's rules: honest ones arrive, at peers and at the host.

No guests: two namespaces, each at a port of the bridge, and frames written by hand. What guests do is in test_cluster.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from cluster import guard
from cluster.guard import Sender
from tests.vm.conftest import eventually

pytestmark = pytest.mark.root

MINE = Sender("wga", "52:54:00:00:00:01", "10.9.0.1")
PEER = Sender("wgb", "52:54:00:00:00:02", "10.9.0.2")
HOST = Sender("wgbr", "52:54:00:00:00:fe", "10.9.0.254")
ALL = "ff:ff:ff:ff:ff:ff"
NONE = "00:00:00:00:00:00"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: object) -> bytes:
    return ipaddress.ip_address(str(text)).packed


def ether(kind: int, rest: bytes, source: str = MINE.mac, to: str = ALL) -> bytes:
    return (mac(to) + mac(source) + struct.pack(">H", kind) + rest).ljust(60, b"\0")


def arp(
    operation: int, sender: str, address: str, of: str = PEER.address, source: str = MINE.mac
) -> bytes:
    rest = mac(sender) + ip(address) + mac(NONE) + ip(of)
    return ether(0x0806, struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + rest, source)


def other_arp(kind: int, hardware: int, operation: int) -> bytes:
    head = struct.pack(">HHBBH", hardware, 0x0800, 6, 4, operation)
    return ether(kind, head + mac(MINE.mac) + ip(MINE.address) + bytes(10))


def ipv4(address: str, port: int = 5000, source: str = MINE.mac) -> bytes:
    udp = struct.pack(">HHHH", port, 5001, 28, 0) + b"no padding: 20 bytes"
    ends = ip(address) + ip("10.9.0.255")
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(udp), 1, 0, 64, 17)
    total = sum(struct.unpack(">9H", head + ends))
    # A bridge drops what has a wrong checksum by itself (RFC 1071).
    check = ~(total + (total >> 16)) & 0xFFFF
    return ether(0x0800, head + struct.pack(">H", check) + ends + udp, source)


def ipv6(source: object, rest: bytes, following: int = 58) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(rest), following, 255)
    return ether(0x86DD, head + ip(source) + ip("ff02::1") + rest)


def icmp6(kind: int, rest: bytes = bytes(20)) -> bytes:
    return struct.pack(">BBH", kind, 0, 0) + rest


def about(kind: int, target: object) -> bytes:
    """A Neighbour Discovery message about `target`."""
    return icmp6(kind, bytes(4) + ip(target))


HOP_BY_HOP = bytes((58, 0, 1, 4, 0, 0, 0, 0))
LINK, OTHER = MINE.link_local, PEER.link_local
PASS = {
    "arp request": arp(1, MINE.mac, MINE.address),
    "arp reply": arp(2, MINE.mac, MINE.address),
    "arp probe of its own address": arp(1, MINE.mac, "0.0.0.0", of=MINE.address),
    "ipv4": ipv4(MINE.address),
    "ipv6 udp": ipv6(LINK, struct.pack(">HHHH", 5000, 5001, 8, 0), 17),
    "neighbour solicitation": ipv6(LINK, about(135, OTHER)),
    "neighbour advertisement": ipv6(LINK, about(136, LINK)),
    "duplicate address detection": ipv6("::", about(135, LINK)),
    "multicast report before it has an address": ipv6("::", HOP_BY_HOP + icmp6(143), 0),
    "router solicitation": ipv6(LINK, icmp6(133)),
}
REFUSED = {
    "another's MAC": ipv4(MINE.address, source=PEER.mac),
    "the host's MAC": ipv4(MINE.address, source=HOST.mac),
    "another's IPv4": ipv4(PEER.address),
    "the host's IPv4": ipv4(HOST.address),
    "nobody's IPv4": ipv4("8.8.8.8"),
    "no IPv4": ipv4("0.0.0.0"),
    "a DHCP server's": ipv4(MINE.address, port=67),
    "arp reply for another": arp(2, MINE.mac, PEER.address),
    "arp reply for the host": arp(2, MINE.mac, HOST.address),
    "arp reply that names another's MAC": arp(2, PEER.mac, MINE.address),
    "arp probe of another's address": arp(1, MINE.mac, "0.0.0.0", of=PEER.address),
    "arp of another kind of hardware": other_arp(0x0806, 6, 2),
    "reverse arp": other_arp(0x8035, 1, 3),
    "another's IPv6": ipv6(OTHER, struct.pack(">HHHH", 5000, 5001, 8, 0), 17),
    "a global IPv6": ipv6("2001:db8::1", struct.pack(">HHHH", 5000, 5001, 8, 0), 17),
    "neighbour advertisement for another": ipv6(LINK, about(136, OTHER)),
    "neighbour advertisement behind another header": ipv6(LINK, HOP_BY_HOP + about(136, OTHER), 0),
    "duplicate address detection of another's": ipv6("::", about(135, OTHER)),
    "router advertisement": ipv6(LINK, icmp6(134)),
    "router advertisement behind another header": ipv6(LINK, HOP_BY_HOP + icmp6(134), 0),
    "redirect": ipv6(LINK, icmp6(137, bytes(36))),
    "a DHCPv6 server's": ipv6(LINK, struct.pack(">HHHH", 547, 546, 8, 0), 17),
    "a VLAN's": ether(0x8100, struct.pack(">HH", 5, 0x0800) + ipv4(PEER.address)[14:]),
    "an honest one in a VLAN": ether(0x8100, struct.pack(">HH", 5, 0x0800) + ipv4(MINE.address)[14:]),
    "a bridge's": mac("01:80:c2:00:00:00") + mac(MINE.mac) + bytes.fromhex("0026424203") + bytes(40),
    "of no known kind": ether(0x88CC, b"lldp"),
}  # fmt: skip


def inside(name: str, *argv: str, data: str = "") -> str:
    full = ["nsenter", f"--net=/run/netns/{name}", *argv]
    return subprocess.run(
        full, check=True, timeout=20, text=True, input=data, capture_output=True
    ).stdout


def tapped(name: str, device: str) -> socket.socket:
    """A socket that sends and hears all of a device in a namespace."""
    made = []

    def enter() -> None:
        from pyroute2.netns import setns

        setns(name)
        made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    made[0].bind((device, 0))
    made[0].settimeout(2)
    return made[0]


@pytest.fixture(scope="module")
def wires() -> Iterator[tuple[str, socket.socket, list[socket.socket]]]:
    """(namespace, the socket of the guest that is watched, sockets of its peer and its host)"""
    top = f"phx-wire{os.getpid()}"
    ends = {top: None, f"{top}a": MINE, f"{top}b": PEER}
    try:
        for name in ends:
            subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
            # Only what the test says is heard.
            inside(name, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        inside(top, "ip", "link", "add", "wgbr", "address", HOST.mac, "type", "bridge")
        inside(top, "ip", "link", "set", "wgbr", "up")
        for name, sender in ends.items():
            if sender:
                peer = (
                    "peer",
                    "name",
                    "eth0",
                    "address",
                    sender.mac,
                    "netns",
                    f"/run/netns/{name}",
                )
                inside(top, "ip", "link", "add", sender.tap, "type", "veth", *peer)
                inside(top, "ip", "link", "set", sender.tap, "master", "wgbr", "up")
                inside(name, "ip", "link", "set", "eth0", "up")
        sockets = [tapped(f"{top}a", "eth0"), tapped(f"{top}b", "eth0"), tapped(top, "wgbr")]
        inside(top, "nft", "-f", "-", data=guard.ruleset("wire", [MINE, PEER]))
        # A port forwards a moment after its other end is up.
        eventually("both forward", lambda: inside(top, "bridge", "link").count("forwarding") == 2)
        yield top, sockets[0], sockets[1:]
        for found in sockets:
            found.close()
    finally:
        for name in ends:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=20)


LAST = ipv4(MINE.address, port=6000)


def heard(at: socket.socket) -> list[bytes]:
    """All frames of the guest up to the last one that is sent."""
    found = []
    while (frame := at.recv(2048)) != LAST:
        found.append(frame)
    return found


@pytest.mark.parametrize("what", PASS)
def test_what_a_guest_says_for_itself_arrives(wires, what: str) -> None:
    _, guest, others = wires
    guest.send(PASS[what])
    guest.send(LAST)
    assert [PASS[what] in heard(other) for other in others] == [True, True]


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_its_own_reaches_neither_its_peer_nor_the_host(wires, what: str) -> None:
    top, guest, others = wires

    def count() -> int:
        said = inside(top, "nft", "-j", "list", "table", "bridge", "phx-wire")
        return guard.standing(said).refused.get(MINE.tap, 0)

    before = count()
    guest.send(REFUSED[what])
    guest.send(LAST)
    assert [
        frame
        for other in others
        for frame in heard(other)
        if frame[6:12] in (mac(MINE.mac), REFUSED[what][6:12])
    ] == []
    assert count() == before + 1, "it was seen, and refused"


def test_the_rules_are_what_lets_nothing_pass(wires) -> None:
    """Without them each frame arrives: so the frames are good ones, and the test hears them."""
    top, guest, others = wires
    inside(top, "nft", "delete", "table", "bridge", "phx-wire")
    for frame in REFUSED.values():
        guest.send(frame)
    guest.send(LAST)
    heard_by_peer = heard(others[0])
    inside(top, "nft", "-f", "-", data=guard.ruleset("wire", [MINE, PEER]))
    lost = [
        what
        for what, frame in REFUSED.items()
        if frame[12:14] != b"\x81\x00" and frame not in heard_by_peer
    ]
    assert lost == []
