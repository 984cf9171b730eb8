"""A host that does not answer keeps no cluster from the others, and is named when there is no other."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event

import pytest

from builder.errors import EnvironmentLacks
from cluster import draft, occupancy
from cluster.hosts import registry
from cluster.place import Room, left
from tests.invented import LAB

DEAD = replace(LAB, name="dead")


def room(site, host, cluster, disks):
    if host.name == "dead":
        raise EnvironmentLacks("host 'dead' does not run", "phx host up dead")
    return left(Room.of(host), [], [], cluster)


def test_it_is_left_out(monkeypatch):
    monkeypatch.setattr(occupancy, "room", room)
    assert list(draft._rooms(None, [DEAD, LAB], "demo")) == ["lab"]


def test_alone_it_is_told(monkeypatch):
    monkeypatch.setattr(occupancy, "room", room)
    with pytest.raises(EnvironmentLacks, match="host 'dead' does not run"):
        draft._rooms(None, [DEAD], "demo")


def test_hosts_are_asked_side_by_side_and_one_that_hangs_keeps_nobody():
    over = Event()

    def ask(host):
        return host.name != "dead" or over.wait(20)

    started = time.monotonic()
    assert registry.answering([DEAD, LAB], 0.2, ask) == {"dead": False, "lab": True}
    assert time.monotonic() - started < 10
    over.set()
