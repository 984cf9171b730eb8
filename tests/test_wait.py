"""Waiting ends when all nodes are healthy, as soon as that has become impossible, or at the deadline, and says why.

Real sockets in a folder, a small thread as each agent; the machines are the fake's.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from builder.errors import TimedOut, WorkFailed, explain
from cluster import domain, wait
from cluster.hosts.hypervisor import FakeHypervisor
from cluster.ledger import NodeRow
from contextualize import broker as brokers
from contextualize.message import ASK, encode
from tests.invented import drawn


class Agent(threading.Thread):
    """A node's end of its channel: says all its lines to whoever asks, as the real one does."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.lines, self.ended = [], threading.Event()
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.listening.settimeout(0.02)

    def run(self):
        while not self.ended.is_set():
            try:
                out, _ = self.listening.accept()
            except TimeoutError:
                continue
            with out, contextlib.suppress(OSError):  # the broker may leave at any moment
                out.settimeout(2)
                sent = 0 if out.recv(4096) == ASK else len(self.lines)
                while not self.ended.wait(0.005):
                    for line in self.lines[sent:]:
                        out.sendall(line)
                        sent += 1
        self.listening.close()


class Bench:
    """The invented cluster's nodes, launched, each with an agent that is silent at first."""

    def __init__(self, folder):
        self.hypervisor, self.told = FakeHypervisor(), []
        self.nodes = {n.name: n for n in drawn().nodes}
        self.watched, self.agents = [], {}
        for n in self.nodes.values():
            self.hypervisor.start(n.domain, domain.xml(n.machine, n.context))
            row = NodeRow("demo", n.name, n.machine.role, n.address)
            path = folder / f"{n.name}.sock"
            self.watched.append(wait.Watched(row, n.domain, path, n.identity.token))
            self.agents[n.name] = Agent(path)
            self.agents[n.name].start()

    def say(self, node, *stages, **more):
        """Let a node report these stages; `more` is said with the last of them."""
        agent = self.agents[node]
        for stage in stages:
            seq = len(agent.lines)
            body = {"node": node, "boot": "b", "seq": seq, "stage": stage, "uptime": 1.5 + seq}
            extra = more if stage == stages[-1] else {}
            agent.lines.append(encode({**body, **extra}, self.nodes[node].identity.token))

    def wait(self, timeout=5.0, tell=None):
        return wait.until_ready(
            self.watched, self.hypervisor, timeout, tell or self.told.append,
            lambda node: f"{node} said\n[  OK  ] Reached target",
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    monkeypatch.setattr(wait, "LOOK", 0.02)
    found = Bench(tmp_path)
    yield found
    for agent in found.agents.values():
        agent.ended.set()
    for agent in found.agents.values():
        agent.join(2)


ALL = ("booted", "contextualized", "healthy")


def test_all_healthy(bench):
    for name in bench.nodes:
        bench.say(name, *ALL)
    rows = bench.wait()
    assert [(n, r.stage, r.boot, r.uptime) for n, r in rows.items()] == [
        (name, "healthy", "b", 3.5) for name in ("head-1", "worker-1", "worker-2")
    ]
    for name in bench.nodes:
        assert [r.stage for r in bench.told if r.name == name] == list(ALL), "each change is told"


def test_a_node_that_speaks_late_is_waited_for(bench):
    for name in ("head-1", "worker-1"):
        bench.say(name, *ALL)
    late = threading.Timer(0.1, bench.say, ("worker-2", *ALL))
    late.start()
    assert {r.stage for r in bench.wait().values()} == {"healthy"}
    late.join()


def test_nothing_to_wait_for():
    assert wait.until_ready([], FakeHypervisor(), 1.0, lambda _: None, lambda _: "") == {}


def test_a_failed_report_ends_it_at_once_with_its_tail(bench):
    bench.say("head-1", *ALL)
    bench.say(
        "worker-2", "booted", "failed", message="hook x: exit 7", tail="mount: no\n\x1b[1mway\n"
    )
    started = time.monotonic()
    with pytest.raises(WorkFailed) as caught:
        bench.wait(timeout=30)
    assert time.monotonic() - started < 3 and not isinstance(caught.value, TimedOut)
    assert explain(caught.value) == (
        "error: worker-2 failed: hook x: exit 7\n    | mount: no\n    | way\n"
        "  hint: phx ssh worker-2 to look around; phx ssh worker-2 -- systemctl restart philoxenia-agent "
        "runs its hooks again, and phx up then goes on"
    )
    said = [r.message for r in bench.told if r.stage == "failed"]
    assert said == ["hook x: exit 7\nmount: no\nway"]


def test_a_failure_without_a_word_is_one_all_the_same(bench):
    bench.say("worker-1", "failed")
    with pytest.raises(WorkFailed, match="worker-1 failed: it does not say why"):
        bench.wait()


@pytest.mark.parametrize("how", ["off", "crashed", "gone"])
def test_a_machine_that_stops_ends_it_at_once_with_its_console(how, bench):
    bench.say("worker-1", "booted")

    def stop(_row):
        if how == "gone":
            del bench.hypervisor.domains["demo.worker-1"]
        else:
            xml, _ = bench.hypervisor.domains["demo.worker-1"]
            bench.hypervisor.domains["demo.worker-1"] = (xml, how)

    started = time.monotonic()
    with pytest.raises(WorkFailed) as caught:
        bench.wait(timeout=30, tell=stop)
    assert time.monotonic() - started < 3
    assert str(caught.value) == (
        f"worker-1 stopped (its machine is {how}) after stage booted\n"
        "    | worker-1 said\n    | [  OK  ] Reached target"
    )


def test_a_paused_machine_may_go_on(bench):
    for name in bench.nodes:
        xml, _ = bench.hypervisor.domains[f"demo.{name}"]
        bench.hypervisor.domains[f"demo.{name}"] = (xml, "paused")
    with pytest.raises(TimedOut):
        bench.wait(timeout=0.1)


def test_the_deadline_names_stage_refusal_and_console(bench):
    bench.say("head-1", *ALL)
    bench.say("worker-1", "booted")
    bench.agents["worker-2"].lines.append(b"hello\n")
    with pytest.raises(TimedOut) as caught:
        bench.wait(timeout=0.4)
    assert explain(caught.value) == (
        "error: 2 of 3 nodes are not ready after 0 s\n"
        "worker-1 hung after stage booted; the end of its console:\n"
        "    | worker-1 said\n    | [  OK  ] Reached target\n"
        "worker-2 hung after stage defined; worker-2 sent something that is not a report; "
        "the end of its console:\n"
        "    | worker-2 said\n    | [  OK  ] Reached target\n"
        "  hint: phx up goes on waiting where this ended; 'deadline' in the cluster file sets the time"
    )


def test_a_channel_that_never_comes_does_not_outlast_the_deadline(bench, tmp_path):
    for agent in bench.agents.values():
        agent.ended.set()
    for path in tmp_path.glob("*.sock"):
        path.unlink()
    started = time.monotonic()
    with pytest.raises(TimedOut, match="3 of 3 nodes are not ready"):
        bench.wait(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 1.5
