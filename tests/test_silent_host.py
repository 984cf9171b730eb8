"""A host that does not answer keeps no cluster from the others, and is named when there is no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.errors import EnvironmentLacks
from cluster import draft, occupancy
from cluster.place import left
from tests.invented import LAB

DEAD = replace(LAB, name="dead")


def room(site, host, cluster):
    if host.name == "dead":
        raise EnvironmentLacks("host 'dead' does not run", "phx host up dead")
    return left(host, [], [], cluster)


def test_it_is_left_out(monkeypatch):
    monkeypatch.setattr(occupancy, "room", room)
    assert list(draft._rooms(None, [DEAD, LAB], "demo")) == ["lab"]


def test_alone_it_is_told(monkeypatch):
    monkeypatch.setattr(occupancy, "room", room)
    with pytest.raises(EnvironmentLacks, match="host 'dead' does not run"):
        draft._rooms(None, [DEAD], "demo")
