"""A shared uplink under contention, without guests: two namespaces send through a bridge and a device to a third.

Who is promised more has it while the other floods with more connections; what nobody uses is borrowed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from builder.errors import WorkFailed
from cluster.hosts import uplink
from cluster.hosts.local import Here
from cluster.hosts.policy import Uplink
from cluster.hosts.uplink import Share
from tests.invented import LAB

pytestmark = pytest.mark.root

RATE = 40_000_000
MINE = Share("52:54:00:00:0a:01", 24_000_000, RATE)
OTHER = Share("52:54:00:00:0a:02", 8_000_000, RATE)
HALF = Share("52:54:00:00:0a:02", 8_000_000, RATE // 4)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)


@pytest.fixture(scope="module", params=["veth", "vxlan"])
def net(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(prefix of the namespaces, the uplink's device): TOP with a bridge, TOPa and TOPb at its ports, TOPz outside."""
    top, kind = f"phx-up{os.getpid()}", request.param
    ends = ("", "a", "b", "z")
    try:
        for end in ends:
            ip("netns", "add", f"{top}{end}")
        ip("-n", top, "link", "add", "bridge", "type", "bridge")
        ip("-n", top, "link", "set", "bridge", "up")
        for end, share in (("a", MINE), ("b", OTHER)):
            peer = ("peer", "name", "eth0", "address", share.mac, "netns", f"{top}{end}")
            ip("-n", top, "link", "add", f"port-{end}", "type", "veth", *peer)
            ip("-n", top, "link", "set", f"port-{end}", "master", "bridge", "up")
        ip(
            "-n",
            top,
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            f"{top}z",
        )
        outer = "eth0"
        if kind == "vxlan":
            for here, device, address, remote in ((top, "wire", 1, 2), (f"{top}z", "eth0", 2, 1)):
                ip("-n", here, "address", "add", f"192.168.7.{address}/24", "dev", device)
                ip("-n", here, "link", "set", device, "up")
                ip("-n", here, "link", "add", "vx", "type", "vxlan", "id", "7", "dev", device,
                   "remote", f"192.168.7.{remote}", "dstport", "4789")  # fmt: skip
            outer = "vx"
        for end, device, address in (("a", "eth0", 1), ("b", "eth0", 2), ("z", outer, 9)):
            ip("-n", f"{top}{end}", "address", "add", f"10.9.0.{address}/24", "dev", device)
            ip("-n", f"{top}{end}", "link", "set", device, "up")
        yield top, "vx" if kind == "vxlan" else "wire"
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "del", f"{top}{end}"], check=False, timeout=20)


@pytest.fixture
def reach(net: tuple[str, str]) -> Here:
    return Here(replace(LAB, netns=net[0]))


class Streams:
    """TCP from namespaces to the outside, counted where it arrives, by its sender's address."""

    def __init__(self, top: str) -> None:
        self.top, self.counts, self.open = top, Counter[str](), list[socket.socket]()
        self.server = self.inside("z", lambda: socket.create_server(("10.9.0.9", 7000)))
        threading.Thread(target=self.serve, daemon=True).start()

    def inside(self, end: str, act: Callable[[], socket.socket]) -> socket.socket:
        made = []

        def enter() -> None:
            from pyroute2.netns import setns

            setns(f"{self.top}{end}")
            made.append(act())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, (address, _) = self.server.accept()
                self.open.append(connection)
                threading.Thread(target=self.hear, args=(connection, address), daemon=True).start()

    def hear(self, connection: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            while got := len(connection.recv(1 << 18)):
                self.counts[address] += got

    def flood(self, end: str, times: int = 1) -> None:
        def say(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection.send(bytes(1 << 16))

        for _ in range(times):
            one = self.inside(end, lambda: socket.create_connection(("10.9.0.9", 7000), 10))
            self.open.append(one)
            threading.Thread(target=say, args=(one,), daemon=True).start()

    def rates(self, seconds: float = 1.5) -> tuple[float, float]:
        """bit/s of a and b, a moment after the last change."""
        time.sleep(0.7)
        before, began = self.counts.copy(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        moved = [8 * (self.counts[f"10.9.0.{n}"] - before[f"10.9.0.{n}"]) / took for n in (1, 2)]
        return moved[0], moved[1]

    def close(self) -> None:
        # Shut down first: closing alone wakes nobody who is inside recv or accept.
        for one in (self.server, *self.open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def streams(net: tuple[str, str]) -> Iterator[Streams]:
    found = Streams(net[0])
    yield found
    found.close()


def test_a_guarantee_holds_while_another_floods_and_idle_capacity_is_borrowed(
    net: tuple[str, str], reach: Here, streams: Streams
) -> None:
    line = Uplink(net[1], RATE)
    assert uplink.ensure(reach, line, "bridge", [OTHER, MINE])
    assert not uplink.ensure(reach, line, "bridge", [MINE, OTHER]), "it reads back what it set"
    streams.flood("b", 4)
    _, alone = streams.rates()
    assert alone >= 0.8 * RATE, "nobody else sends: b has nearly all"
    streams.flood("a")
    mine, other = streams.rates()
    assert mine >= 0.9 * MINE.guarantee and other >= 0.9 * OTHER.guarantee
    assert mine + other <= 1.05 * RATE
    assert mine > 1.5 * other, "a has one connection and b four"
    assert uplink.ensure(reach, line, "bridge", [MINE, HALF])
    _, other = streams.rates()
    assert other <= 1.1 * HALF.limit, "a limit is set under traffic"


def test_what_was_changed_by_hand_is_seen_and_set_again(net: tuple[str, str], reach: Here) -> None:
    line = Uplink(net[1], RATE)
    uplink.ensure(reach, line, "bridge", [MINE, OTHER])
    for words in (
        ("class", "change", "dev", net[1], "parent", "1:1", "classid", "1:10", "htb", "rate", "1mbit", "ceil", "2mbit"),
        ("filter", "del", "dev", net[1], "parent", "1:", "prio", "1", "protocol", "all"),
        ("qdisc", "del", "dev", net[1], "root"),
    ):  # fmt: skip
        reach.run(["tc", *words], timeout=20)
        assert uplink.ensure(reach, line, "bridge", [MINE, OTHER]), words
        assert not uplink.ensure(reach, line, "bridge", [MINE, OTHER])
    reach.run(["ip", "link", "set", net[1], "nomaster"], timeout=20)
    assert uplink.ensure(reach, line, "bridge", [MINE])
    assert [s.mac for s in uplink.read(reach, net[1]).shares.values()] == [MINE.mac]


def test_another_bridges_port_is_left_alone_and_ours_is_let_go(
    net: tuple[str, str], reach: Here
) -> None:
    line = Uplink(net[1], RATE)
    uplink.ensure(reach, line, "bridge", [MINE])
    with pytest.raises(WorkFailed, match="is a port of bridge"):
        uplink.ensure(reach, line, "elsewhere", [MINE])
    uplink.release(reach, net[1], "elsewhere")
    assert uplink.read(reach, net[1]).bridge == "bridge"
    uplink.release(reach, net[1], "bridge")
    uplink.release(reach, net[1], "bridge")
    now = uplink.read(reach, net[1])
    assert (now.bridge, now.rate, now.shares) == ("", None, {})
    uplink.release(reach, "gone", "bridge")
    with pytest.raises(WorkFailed, match="has no network device gone"):
        uplink.ensure(reach, Uplink("gone", RATE), "bridge", [])
