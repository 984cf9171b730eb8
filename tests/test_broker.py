"""The broker hears each report once, whatever the other side does, and never believes what no agent would send.

Real sockets in a folder; the agents are a few lines without threads, moved by hand between the broker's steps.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time

import pytest

from builder.errors import EnvironmentLacks
from contextualize import broker as brokers
from contextualize.broker import Broker
from contextualize.identity import Secret
from contextualize.message import ASK, LIMIT, encode

TOKENS = {"n-1": Secret(b"one"), "n-2": Secret(b"two")}


def line(node="n-1", seq=0, stage="booted", boot="b", token=None):
    body = {"node": node, "boot": boot, "seq": seq, "stage": stage, "uptime": 1.0}
    return encode(body, token or TOKENS[node])


class Port:
    """The guest's end of one channel: a listening socket, as QEMU has it."""

    def __init__(self, path):
        self.path, self.out = path, None
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.listening.settimeout(2)

    def accept(self):
        """Take the broker's connection and its question."""
        self.out, _ = self.listening.accept()
        self.out.settimeout(2)
        assert self.out.recv(4096) == ASK

    def close(self):
        for s in (self.out, self.listening):
            if s is not None:
                s.close()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A broker of two nodes, what it was told, and how to open a node's port."""
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    heard, refused, ports = [], [], []
    paths = {n: tmp_path / f"{n}.sock" for n in TOKENS}
    broker = Broker(
        {n: (paths[n], TOKENS[n]) for n in TOKENS},
        lambda r: heard.append((r.node, r.boot, r.seq, r.stage)),
        lambda node, why: refused.append((node, why)),
    )

    def open_(node):
        paths[node].unlink(missing_ok=True)
        ports.append(Port(paths[node]))
        return ports[-1]

    with broker:
        broker.heard, broker.refused, broker.open = heard, refused, open_
        yield broker
    for port in ports:
        port.close()


def steps(broker, until, patience=2.0):
    """Let the broker work until something holds."""
    deadline = time.monotonic() + patience
    while not until():
        assert time.monotonic() < deadline, f"heard {broker.heard}, refused {broker.refused}"
        broker.step(0.01)


def test_reports_arrive_in_order_once_each(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    port.out.sendall(line(seq=0) + line(seq=1, stage="contextualized"))
    port.out.sendall(line(seq=2, stage="healthy"))
    steps(bench, lambda: len(bench.heard) == 3)
    assert bench.heard == [
        ("n-1", "b", 0, "booted"), ("n-1", "b", 1, "contextualized"), ("n-1", "b", 2, "healthy"),
    ]  # fmt: skip
    assert bench.refused == []


def test_a_report_in_pieces_is_one_report(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    for byte in line():
        port.out.sendall(bytes([byte]))
        bench.step(0)
    steps(bench, lambda: bench.heard)
    assert bench.heard == [("n-1", "b", 0, "booted")] and bench.refused == []


def test_after_a_broken_channel_it_asks_again_and_hears_nothing_twice(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    port.out.sendall(line(seq=0) + line(seq=1)[:40])
    steps(bench, lambda: len(bench.heard) == 1)
    port.out.close()
    steps(bench, lambda: bench._lines["n-1"].socket is None)
    steps(bench, lambda: bench._lines["n-1"].socket is not None)
    port.accept()
    port.out.sendall(line(seq=0) + line(seq=1, stage="healthy"))
    steps(bench, lambda: len(bench.heard) == 2)
    assert bench.heard == [("n-1", "b", 0, "booted"), ("n-1", "b", 1, "healthy")]
    assert bench.refused == [], "half a line of the old connection is not put before the new one's"


def test_another_boot_is_heard_from_its_start(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    port.out.sendall(line(boot="one") + line(boot="two") + line(boot="one"))
    steps(bench, lambda: len(bench.heard) == 2)
    bench.step(0.01)
    assert bench.heard == [("n-1", "one", 0, "booted"), ("n-1", "two", 0, "booted")]


def test_a_channel_that_comes_late_is_found(bench):
    started = time.monotonic()
    bench.step(0.01)
    bench.step(0.01)
    assert time.monotonic() - started < 0.2, "no patience is spent on what is not there"
    port = bench.open("n-2")
    steps(bench, lambda: bench._lines["n-2"].socket is not None)
    port.accept()
    port.out.sendall(line("n-2"))
    steps(bench, lambda: bench.heard)
    assert bench.heard == [("n-2", "b", 0, "booted")]


def test_a_socket_file_that_nobody_serves_any_more_is_tried_again(bench):
    port = bench.open("n-1")
    port.close()
    bench.step(0)
    assert bench._lines["n-1"].socket is None
    port = bench.open("n-1")
    steps(bench, lambda: bench._lines["n-1"].socket is not None)
    port.accept()


@pytest.mark.parametrize(
    ("why", "sent", "said"),
    [
        ("no report at all", b"hello, broker\n", "n-1 sent something that is not a report"),
        ("bytes", bytes(range(11, 256)) + b"\n", "n-1 sent something that is not a report"),
        ("another node's report", line("n-2"), "n-1 sent a report with a wrong token"),
        ("another node's name", line("n-2", token=TOKENS["n-1"]), "n-1 calls itself 'n-2'"),
    ],
)
def test_what_no_agent_sends_is_refused_and_the_rest_heard(why, sent, said, bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    port.out.sendall(b"\n\n" + sent + line())
    steps(bench, lambda: bench.heard)
    assert bench.refused == [("n-1", said)], why
    assert bench.heard == [("n-1", "b", 0, "booted")]


def test_two_megabytes_without_an_end_of_line_are_dropped(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    port.out.setblocking(False)
    rest, most = b"x" * (2 << 20), 0
    deadline = time.monotonic() + 2
    while not bench.refused:
        assert time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError):
            rest = rest[port.out.send(rest) :]
        bench.step(0)
        most = max(most, len(bench._lines["n-1"].heard))
    [(node, why)] = bench.refused
    assert (
        node == "n-1"
        and why.startswith("n-1 sent ")
        and why.endswith(" bytes without an end of line")
    )
    assert most <= LIMIT + (1 << 16), "no more is kept than one line may have and one read brings"
    assert bench._lines["n-1"].socket is None and not bench._lines["n-1"].heard
    # Its next connection starts afresh, and the other node never noticed.
    steps(bench, lambda: bench._lines["n-1"].socket is not None)
    port.out.close()
    port.accept()
    port.out.sendall(line())
    steps(bench, lambda: bench.heard)


def test_one_silent_node_does_not_hold_the_other(bench):
    silent, talking = bench.open("n-1"), bench.open("n-2")
    bench.step(0)
    silent.accept()
    talking.accept()
    talking.out.sendall(line("n-2"))
    steps(bench, lambda: bench.heard, patience=0.2)


def test_a_new_broker_hears_all_again(bench, tmp_path):
    """A killed broker's follower: it asks, and an agent repeats everything from the start."""
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    bench.__exit__()
    heard = []
    with Broker(
        {"n-1": (port.path, TOKENS["n-1"])}, lambda r: heard.append(r.seq), lambda *_: None
    ) as other:
        other.step(0)
        port.accept()
        port.out.sendall(line(seq=0) + line(seq=1))
        deadline = time.monotonic() + 2
        while len(heard) < 2 and time.monotonic() < deadline:
            other.step(0.01)
    assert heard == [0, 1]


def test_leaving_closes_every_channel(bench):
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    bench.__exit__()
    assert port.out.recv(1) == b""


@pytest.mark.parametrize(
    ("why", "limits", "channels", "wanted"),
    [
        ("there is room", (1024, 4096), 500, None),
        ("the soft limit is ours to raise", (1024, 4096), 2000, (2256, 4096)),
        ("and for root the hard one too", (1024, 4096), 10_000, (10_256, 10_256)),
        ("nothing limits it", (resource.RLIM_INFINITY,) * 2, 10_000, None),
    ],
)
def test_open_files_for_as_many_channels(why, limits, channels, wanted, monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: asked.append(new))
    brokers._room_for(channels)
    assert asked == ([wanted] if wanted else []), why


def test_more_channels_than_files_may_be_open_is_said_before_anything_is_waited_for(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError()))
    with pytest.raises(
        EnvironmentLacks,
        match="10000 channels need 10256 open files, and this process may have 4096",
    ):
        Broker({f"n-{n}": (None, TOKENS["n-1"]) for n in range(10_000)}, print, print)


def test_a_line_that_comes_byte_by_byte_costs_no_more_than_one_that_comes_whole(bench):
    """Two megabytes in small pieces: what was heard already is not searched again."""
    port = bench.open("n-1")
    bench.step(0)
    port.accept()
    line_, told = bench._lines["n-1"], b"x" * 500
    started = time.process_time()
    for _ in range(2000):
        port.out.sendall(told)
        bench._hear(line_)
    assert time.process_time() - started < 2 and len(line_.heard) == 1_000_000
