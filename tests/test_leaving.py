"""Nodes that go are told until they have heard it; who is dead holds nobody up; it never fails."""

from __future__ import annotations

import pytest

from cluster import leaving
from contextualize import broker as brokers
from contextualize.message import ASK, encode, order
from tests.test_wait import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    monkeypatch.setattr(leaving, "SILENCE", 0.2)
    found = Bench(tmp_path)
    yield found
    found.close()


def left(bench, node):
    """What its agent says when its hooks of leaving have run."""
    body = {"node": node, "boot": "b", "seq": 9, "stage": "left", "uptime": 1.0}
    return encode(body, bench.nodes[node].identity.token)


def channels(bench, *nodes):
    return {w.row.name: (w.channel, w.token) for w in bench.watched if w.row.name in nodes}


def answer(bench, monkeypatch, after):
    """Agents that say that they left once they were told so `after` times; the channel breaks at each time before."""
    monkeypatch.setattr(leaving, "Broker", Watching)
    Watching.bench, Watching.after = bench, after


class Watching(brokers.Broker):
    """A broker that lets the agents answer between its steps."""

    def step(self, patience):
        for node, agent in self.bench.agents.items():
            told = agent.heard.count(order({"leave": True}, self.bench.nodes[node].identity.token))
            if told >= self.after and not agent.lines:
                agent.lines.append(left(self.bench, node))
            elif told and told < self.after and agent.heard.count(ASK) == told:
                agent.restart.set()
        super().step(min(patience, 0.02))


@pytest.mark.parametrize("after", [1, 2])
def test_a_node_is_told_again_when_its_channel_broke(bench, monkeypatch, after):
    answer(bench, monkeypatch, after)
    said = []
    leaving.leave(channels(bench, "worker-1", "worker-2"), 20, said.append)
    assert sorted(said) == ["worker-1 left", "worker-2 left"]
    assert bench.agents["head-1"].heard == b"", "nobody else is spoken to"


def test_who_says_nothing_is_taken_for_dead(bench):
    said = []
    leaving.leave(channels(bench, "worker-1"), 20, said.append)
    assert said == ["worker-1 did not say that it left; it goes in any case"]


def test_who_lives_and_does_not_leave_has_its_time(bench):
    bench.say("worker-1", "booted")
    said = []
    leaving.leave(channels(bench, "worker-1"), 0.4, said.append)
    assert said == ["worker-1 did not say that it left; it goes in any case"]
