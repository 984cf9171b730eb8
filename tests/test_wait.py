"""Waiting ends when all nodes are healthy, as soon as that has become impossible, or at the deadline, and says why.

Real sockets in a folder, a small thread as each agent; the machines are the fake's.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import replace
from typing import ClassVar

import pytest

from builder.errors import TimedOut, WorkFailed, explain
from cluster import domain, offline, wait
from cluster.hosts.fake import FakeHypervisor
from cluster.ledger import NodeRow
from contextualize import broker as brokers
from contextualize.coordinator import Coordinator
from contextualize.message import ASK, encode
from tests.invented import CLUSTER, drawn


class Agent(threading.Thread):
    """A node's end of its channel: says all its lines to whoever asks, as the real one does."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.lines, self.heard = [], b""
        self.ended, self.restart = threading.Event(), threading.Event()
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
                first = out.recv(1 << 20)
                sent = 0 if first.startswith(ASK) else len(self.lines)
                self.heard += first
                out.settimeout(0.005)
                while not self.ended.is_set():
                    if self.restart.is_set():
                        self.restart.clear()
                        break
                    for line in self.lines[sent:]:
                        out.sendall(line)
                        sent += 1
                    with contextlib.suppress(TimeoutError):
                        self.heard += out.recv(1 << 20)
        self.listening.close()


class Bench:
    """The invented cluster's nodes, launched, each with an agent that is silent at first."""

    def __init__(self, folder, text=CLUSTER):
        self.hypervisor, self.told = FakeHypervisor(), []
        self.plan = drawn(text)
        self.nodes = {n.name: n for n in self.plan.nodes}
        self.console = "[  OK  ] Reached target"
        self.mended = []
        self.watched, self.agents = [], {}
        for n in self.nodes.values():
            self.hypervisor.start(n.domain, domain.xml(n.machine, n.context))
            row = NodeRow("demo", n.name, n.machine.role, n.address)
            path = folder / f"{n.name}.sock"
            self.watched.append(wait.Watched(row, n.domain, path, n.identity.token, "base"))
            self.agents[n.name] = Agent(path)
            self.agents[n.name].start()

    def say(self, node, *stages, **more):
        """Let a node report these stages; `more` is said with the last of them."""
        agent = self.agents[node]
        digest = self.plan.documents.document(node)["digest"]
        for stage in stages:
            seq = len(agent.lines)
            body = {
                "node": node,
                "boot": "b",
                "seq": seq,
                "stage": stage,
                "uptime": 1.5 + seq,
                "context": digest,
            }
            extra = more if stage == stages[-1] else {}
            agent.lines.append(encode({**body, **extra}, self.nodes[node].identity.token))

    def wait(self, timeout=5.0, tell=None, again=(), mend=None, ran=None, outside=tuple, **limits):
        names = {w.row.name for w in self.watched}
        coordinator = Coordinator(self.plan.documents, self.plan.exchange(self.least), names, again)
        return wait.Wait(
            self.watched, coordinator, self.hypervisor, wait.Limits(timeout, **limits),
            tell or self.told.extend, lambda node: f"{node} said\n{self.console}",
            mend or self.mended.append, None, ran or (lambda _: None), outside,
        ).until_ready()  # fmt: skip

    least: ClassVar = {"head": 1, "worker": 2}

    def close(self):
        for agent in self.agents.values():
            agent.ended.set()
        for agent in self.agents.values():
            agent.join(2)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    monkeypatch.setattr(wait, "LOOK", 0.02)
    found = Bench(tmp_path)
    yield found
    found.close()


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


def test_a_node_in_which_nobody_reports_is_healthy_when_it_is_seen_from_outside(bench):
    bench.watched = [replace(w, silent=w.row.name == "head-1") for w in bench.watched]
    bench.say("worker-1", *ALL)
    bench.say("worker-2", *ALL)
    digest = bench.plan.documents.document("head-1")["digest"]
    seen = iter([[], offline.reports("head-1", "key", "key", digest, 7.5)])
    rows = bench.wait(outside=lambda: next(seen, []))
    assert {r.stage for r in rows.values()} == {"healthy"} and rows["head-1"].uptime == 7.5
    assert [r.stage for r in bench.told if r.name == "head-1"] == list(ALL)


def test_a_node_that_answers_as_another_has_failed(bench):
    bench.watched = [replace(w, silent=w.row.name == "head-1") for w in bench.watched]
    wrong = offline.reports("head-1", "key", "other", "", 1.0)
    with pytest.raises(WorkFailed, match="head-1 failed: it answers with another host key"):
        bench.wait(outside=lambda: wrong)


@pytest.mark.parametrize("stages", [ALL, ("booted", "healthy")], ids=["heard", "overtaken"])
def test_hooks_are_told_once_with_status_and_time(bench, stages):
    """Also when the report that they ended was overtaken by the next: that one says it too."""
    hooks = [["/etc/philoxenia/hooks.d/50-a", 0, 1.25]]
    for name in bench.nodes:
        bench.say(name, "booted")
        for stage in stages[1:]:
            bench.say(name, stage, hooks=hooks)
    ran = []
    bench.wait(ran=ran.append)
    told = {said.node: said.hooks for said in ran}
    assert told == dict.fromkeys(bench.nodes, (("/etc/philoxenia/hooks.d/50-a", 0, 1.25),))
    assert len(ran) == len(told)


def test_a_node_that_speaks_late_is_waited_for(bench):
    for name in ("head-1", "worker-1"):
        bench.say(name, *ALL)
    late = threading.Timer(0.1, bench.say, ("worker-2", *ALL))
    late.start()
    assert {r.stage for r in bench.wait().values()} == {"healthy"}
    late.join()


def test_nothing_to_wait_for(bench):
    bench.watched.clear()
    assert bench.wait() == {}


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
        "  hint: phx ssh worker-2 to look around; phx up runs its hooks again"
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
        if "demo.worker-1" not in bench.hypervisor.domains:
            return
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
        f"worker-1 failed: its machine is {how} after stage booted\n"
        "    | worker-1 said\n    | [  OK  ] Reached target"
    )


def test_a_machine_that_is_made_anew_when_it_reboots_is_waited_for(bench):
    bench.say("worker-1", "booted")
    name, domains = "demo.worker-1", bench.hypervisor.domains
    xml, _ = domains[name]
    domains[name] = (xml, "off")

    def back():
        time.sleep(0.2)
        domains[name] = (xml, "running")

    threading.Thread(target=back).start()
    for node in ("head-1", "worker-2"):
        bench.say(node, "healthy")
    with pytest.raises(TimedOut, match="worker-1 hung after stage booted"):
        bench.wait(timeout=1, away=5.0)
    domains[name] = (xml, "off")
    with pytest.raises(WorkFailed, match="its machine is off after stage defined"):
        bench.wait(timeout=5, away=0.1)


def test_a_host_that_is_lost_ends_it_and_what_was_seen_last_is_told(bench, monkeypatch):
    bench.say("worker-1", "booted")

    def lost(_):
        raise WorkFailed("the host does not list its domains: cut", "run it again")

    monkeypatch.setattr(type(bench.hypervisor), "alive", lost)
    with pytest.raises(WorkFailed) as caught:
        bench.wait(timeout=30)
    said = explain(caught.value)
    assert said.startswith("error: the host was lost while nodes were waited for: ")
    assert "worker-1 was booted" in said and said.endswith("hint: run it again")


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


# a role with something to spare


def test_a_node_that_fails_gets_one_more_machine(bench):
    for name in ("head-1", "worker-1"):
        bench.say(name, *ALL)
    bench.say("worker-2", "booted", "failed", message="hook x: exit 7")

    def mend(node):
        bench.mended.append(node)
        bench.agents[node].lines.clear()
        for stage in ALL:
            seq = len(bench.agents[node].lines)
            body = {"node": node, "boot": "b2", "seq": seq, "stage": stage, "uptime": 1.5,
                    "context": bench.plan.documents.document(node)["digest"]}  # fmt: skip
            bench.agents[node].lines.append(encode(body, bench.nodes[node].identity.token))
        bench.agents[node].restart.set()

    rows = bench.wait(mend=mend, spare={"worker": 1})
    assert bench.mended == ["worker-2"] and {r.stage for r in rows.values()} == {"healthy"}


def test_what_fails_twice_is_given_up_and_the_rest_is_ready(bench):
    for name in ("head-1", "worker-1"):
        bench.say(name, *ALL)
    bench.say("worker-2", "booted", "failed", message="hook x: exit 7")
    rows = bench.wait(spare={"worker": 1}, tries=1)
    assert {n: r.stage for n, r in rows.items()} == {
        "head-1": "healthy", "worker-1": "healthy", "worker-2": "failed",
    }  # fmt: skip
    assert bench.mended == []


def test_the_same_failure_on_every_node_of_a_role_ends_it_at_once(bench):
    bench.say("head-1", *ALL)
    for name in ("worker-1", "worker-2"):
        bench.say(name, "booted", "failed", message=f"hook x of {name}: exit 7")
    with pytest.raises(
        WorkFailed, match="every node of worker failed in the same way: hook x of it: exit 7"
    ):
        bench.wait(spare={"worker": 2}, tries=1)


def test_more_failures_than_can_be_spared(bench):
    bench.say("head-1", *ALL)
    bench.say("worker-1", "failed", message="one way")
    bench.say("worker-2", "failed", message="another")
    with pytest.raises(WorkFailed, match=r"failed: (one way|another)"):
        bench.wait(spare={"worker": 1}, tries=1)


def test_at_the_deadline_enough_are_enough(bench):
    for name in ("head-1", "worker-2"):
        bench.say(name, *ALL)
    rows = bench.wait(timeout=0.3, spare={"worker": 1})
    assert (
        rows["worker-1"].stage == "defined" and rows["worker-1"].message == "not ready within 0.3 s"
    )


def test_a_stage_has_a_deadline_of_its_own(bench):
    bench.say("head-1", *ALL)
    bench.say("worker-1", *ALL)
    bench.say("worker-2", "booted")
    with pytest.raises(WorkFailed, match=r"worker-2 failed: not contextualized within 0\.1 s"):
        bench.wait(timeout=30, stages={"contextualized": 0.1})


def test_an_old_failure_is_tried_again_not_told_again(bench):
    for name in ("head-1", "worker-1"):
        bench.say(name, *ALL)
    bench.say("worker-2", "booted", "failed", message="long ago")
    with pytest.raises(TimedOut, match="worker-2 hung after stage booted"):
        bench.wait(timeout=0.3, again=["worker-2"])
    assert b"again" in bench.agents["worker-2"].heard


# late facts


LATE = CLUSTER.replace(
    "    ssh_to: [worker]\n",
    "    ssh_to: [worker]\n    context: {provides: [{name: key, file: /k}]}\n",
)
LATE = LATE.rstrip() + "\n    context: {requires: [{fact: key}]}\n"


@pytest.fixture
def late(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    found = Bench(tmp_path, LATE)
    yield found
    found.close()


def test_who_waits_for_a_fact_that_never_comes_says_for_what_and_from_whom(late):
    late.say("head-1", *ALL)
    for name in ("worker-1", "worker-2"):
        late.say(name, "booted")
    with pytest.raises(TimedOut) as caught:
        late.wait(timeout=0.3)
    assert "worker-1 hung after stage booted; it waits for key of head (0 of 1); the end of" in str(
        caught.value
    )


def test_a_fact_travels_to_those_who_require_it_and_to_nobody_else(late):
    late.say("head-1", *ALL)
    body = {"node": "head-1", "boot": "b", "seq": 9, "uptime": 4.0, "fact": "key", "value": "AP8="}
    late.agents["head-1"].lines.append(encode(body, late.nodes["head-1"].identity.token))
    for name in ("worker-1", "worker-2"):
        late.say(name, "booted")
    with pytest.raises(TimedOut):
        late.wait(timeout=0.5)
    for name in ("worker-1", "worker-2"):
        assert b"AP8=" in late.agents[name].heard
    assert b"AP8=" not in late.agents["head-1"].heard


# what was ready, and what never can be


def test_healthy_others_that_nobody_asks_are_no_part_of_every_node(bench):
    """Two of sixteen fail alike: the role as a whole did not, and it can spare them."""
    bench.say("head-1", *ALL)
    for name in ("worker-1", "worker-2"):
        bench.say(name, "booted", "failed", message="hook x: exit 7")
    rows = bench.wait(spare={"worker": 4}, counts={"worker": 16}, tries=1)
    assert [rows[n].stage for n in ("worker-1", "worker-2")] == ["failed", "failed"]


def test_a_failure_after_it_was_ready_counts(bench):
    """A later context is the one that counts: its hook of change failed."""
    bench.say("head-1", *ALL)
    bench.say("worker-1", *ALL)

    def then(rows):
        if any(r.name == "worker-1" and r.stage == "healthy" for r in rows):
            bench.say("worker-1", "failed", message="hook change: exit 1")

    with pytest.raises(WorkFailed, match="worker-1 failed: hook change: exit 1"):
        bench.wait(tell=then)


def test_who_waits_for_what_can_never_come_waits_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    monkeypatch.setattr(wait, "LOOK", 0.02)
    reads = "    ssh_to: [worker]\n    context: {requires: [{fact: id, of: 2}]}\n"
    text = CLUSTER.replace("    ssh_to: [worker]\n", reads).rstrip()
    found = Bench(tmp_path, text + "\n    context: {provides: [{name: id, command: hostname}]}\n")
    found.say("head-1", "booted")
    found.say("worker-1", *ALL)
    found.say("worker-2", "booted", "failed", message="hook x: exit 7")
    started = time.monotonic()
    never = r"head-1 can never be ready: it waits for id of worker \(1 left of 2\); worker-2 failed: hook x: exit 7"
    with pytest.raises(WorkFailed, match=never):
        found.wait(timeout=30, spare={"worker": 1}, tries=1)
    assert time.monotonic() - started < 3
    for agent in found.agents.values():
        agent.ended.set()
        agent.join(2)
