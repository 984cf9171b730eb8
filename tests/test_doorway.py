"""Agents that come by HTTPS: proved by pin and token, or shut out; the newest of a node counts.

Real TLS and the real agent's end, over Unix sockets: fast tests have no network.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import agent
from contextualize import doorway as doors
from contextualize.broker import Broker
from contextualize.certificate import certificate, proof
from contextualize.doorway import Doorway
from contextualize.identity import Secret
from contextualize.message import order
from tests.invented import SECRET

TOKENS = {"n-1": Secret(b"one"), "n-2": Secret(b"two")}
OWN = certificate(SECRET, "c")
DOCUMENT = {"peers": [], "facts": {}, "files": [], "data": {}, "digest": "d"}


class Channel(agent.Channel):
    """The real one; its thread can be ended."""

    def run(self):
        with contextlib.suppress(SystemExit):
            super().run()


class Hall:
    """A doorway, a broker behind it, and what it heard."""

    def __init__(self, path):
        self.path = str(path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(64)
        self.heard, self.refused, self.opened = [], [], []
        self.doorway = Doorway(listening, OWN, TOKENS)
        self.broker = Broker(
            {n: (None, t) for n, t in TOKENS.items()},
            lambda r: self.heard.append((r.node, r.seq)),
            lambda node, why: self.refused.append((node, why)),
            self.opened.append, self.doorway,
        )  # fmt: skip

    def steps(self, true, patience=5.0):
        deadline = time.monotonic() + patience
        while not true():
            assert time.monotonic() < deadline, f"heard {self.heard}, refused {self.refused}"
            self.broker.step(0.01)


@pytest.fixture
def channels(hall):
    """Starts a real channel; its thread ends with the test, since others patch what it calls."""
    started = []

    def start(channel):
        started.append(channel)
        channel.start()
        return channel

    yield start
    hall.broker.__exit__()
    hall.doorway.__exit__()
    for channel in started:
        channel.open = sys.exit
    for channel in started:
        channel.join(5)
        assert not channel.is_alive()


@pytest.fixture
def hall(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "AGAIN", 0.02)
    monkeypatch.setattr(agent, "POLL", 0.01)
    monkeypatch.setattr(doors, "TICK", 0.05)
    found = Hall(tmp_path / "door")

    def connect(address, _timeout=None):
        out = socket.socket(socket.AF_UNIX)
        out.connect(address[0])
        return out

    monkeypatch.setattr(agent.socket, "create_connection", connect)
    with found.doorway, found.broker:
        yield found


def told(hall, pin=OWN.pin):
    return {"address": hall.path, "port": 0, "pin": pin}


def enter(hall, node="n-1", token=None, **more):
    return agent.Secure(node, token or TOKENS[node].reveal(), told(hall, **more))


def test_reports_and_orders_go_both_ways(hall, channels):
    channel = Channel("n-1", "one", https=told(hall))
    channel.report("booted")
    channel.give("big", b"x" * (1 << 20))
    channels(channel)
    hall.steps(lambda: len(hall.heard) == 2)
    large = {**DOCUMENT, "data": {"a": "ä" * 500_000}}
    hall.broker.send("n-1", {"context": large})
    hall.steps(lambda: not channel.orders.empty())
    assert channel.orders.get() == {"context": large} and hall.refused == []


def test_a_broker_that_died_is_followed_by_one_that_hears_all(hall, tmp_path, channels):
    channel = Channel("n-1", "one", https=told(hall))
    channel.report("booted")
    channels(channel)
    hall.steps(lambda: hall.heard)
    hall.broker.__exit__()
    hall.doorway.__exit__()
    (tmp_path / "door").unlink()
    channel.report("healthy")
    after = Hall(tmp_path / "door")
    with after.doorway, after.broker:
        after.steps(lambda: len(after.heard) == 2)


@pytest.mark.parametrize(
    ("why", "more"),
    [("a wrong token", {"token": b"two"}), ("no node", {"node": "n-3", "token": b"one"})],
)
def test_who_proves_nothing_is_shut_out(why, more, hall):
    with pytest.raises(OSError, match=r"the broker answered .*403 Forbidden"):
        enter(hall, **more)
    assert hall.doorway.arrived() == [], why


def test_a_broker_with_another_certificate_is_left(hall):
    with pytest.raises(OSError, match="not the pinned one"):
        enter(hall, pin=certificate(Secret(b"another"), "c").pin)


def test_a_machine_that_was_killed_says_no_goodbye_and_its_successor_is_heard(hall):
    """The old connection stays open for ever: nobody is there to close it."""
    old = enter(hall)
    hall.steps(lambda: hall.opened == ["n-1"])
    new = enter(hall)
    hall.steps(lambda: hall.opened == ["n-1", "n-1"])
    hall.broker.send("n-1", {"leave": True})
    assert until_read(new) == b'{"ask": "all"}\n' + order({"leave": True}, TOKENS["n-1"])
    old.close()
    new.close()


def until_read(secure):
    deadline, found = time.monotonic() + 2, b""
    while found.count(b"\n") < 2 and time.monotonic() < deadline:
        found += secure.read()
    return found


def test_strangers_hold_nobody_up(hall, monkeypatch):
    """Who says nothing, who speaks no TLS, who asks without an end: agents come in beside them."""
    monkeypatch.setattr(doors, "UNPROVED", 4)
    strangers = []
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
        strangers.append(socket.socket(socket.AF_UNIX))
        strangers[-1].connect(hall.path)
        with contextlib.suppress(OSError):
            strangers[-1].sendall(data)
    started = time.monotonic()
    for node in TOKENS:
        enter(hall, node)
    hall.steps(lambda: sorted(hall.opened) == ["n-1", "n-2"])
    assert time.monotonic() - started < 2
    for one in strangers:
        one.close()


def test_who_takes_too_long_to_prove_itself_makes_room(hall, monkeypatch):
    monkeypatch.setattr(doors, "UNPROVED", 1)
    monkeypatch.setattr(doors, "PATIENCE", 0.1)
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(hall.path)
    enter(hall)
    hall.steps(lambda: hall.opened == ["n-1"])
    assert stranger.recv(1) == b"", "it was sent away"
    stranger.close()


# the request


@pytest.fixture(scope="module")
def shut():
    """A doorway that does not listen."""
    with socket.socket(socket.AF_UNIX) as listening:
        yield Doorway(listening, OWN, TOKENS)


RIGHT = f"Philoxenia {proof(TOKENS['n-1'], 'n-1', OWN.pin)}"
fields = st.lists(
    st.sampled_from(["Upgrade: philoxenia", f"Authorization: {RIGHT}", "Upgrade: h2", "Host: a", ":", ""])
    | st.text(max_size=20), max_size=5,
)  # fmt: skip
lines = st.sampled_from(["GET /n-1 HTTP/1.1", "GET /n-2 HTTP/1.1", "POST /n-1 HTTP/1.1", ""])


@given(lines | st.text(max_size=30), fields)
def test_any_request_is_proved_by_the_right_mac_alone(shut, first, more):
    node = shut._proved("\r\n".join([first, *more, "", ""]))
    if node:
        assert node == "n-1" and first.split()[:2] == ["GET", "/n-1"]
        assert f"Authorization: {RIGHT}" in more and "Upgrade: philoxenia" in more


@given(st.binary(max_size=200))
def test_any_bytes_prove_nothing(shut, data):
    assert shut._proved(data.decode("latin-1")) == ""
