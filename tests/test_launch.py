"""A launch may die anywhere and is run again; two at once do not get into each other's way. No guest, no libvirt."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.errors import InputError, WorkFailed
from cluster import deploy, domain, launch, leaving, wait
from cluster.actions import Flag, Launch, Meet, Replace, Resume
from cluster.hosts import guarding
from cluster.hosts.fake import FakeHypervisor
from cluster.site import Site
from contextualize.message import Report
from tests.invented import CLUSTER, IMAGE, LAB


class Killed(BaseException):
    """kill -9, as far as a test can have it in its own process."""


class Machines(FakeHypervisor):
    def close(self):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site with one host; machines start in memory, and every node that is waited for becomes ready at once.

    `waited` has the nodes of each wait: those that must become ready, those that are only heard. `die` names where
    the next launch is killed.
    """
    found = Site(tmp_path)
    found.machines, found.waited, found.die, found.fails = Machines(), [], "", set()
    found.catalog = SimpleNamespace(
        root=tmp_path, get=lambda *_: IMAGE, hold=lambda *_: None, release=lambda *_: None,
        folder=lambda _: tmp_path,
    )  # fmt: skip
    host = replace(LAB, kind="libvirt", folder=str(tmp_path), run=str(tmp_path), accelerator="qemu")
    found.ledger.put_host(host)

    def apply(_plan, actions, _host, hypervisor, *_):
        for action in actions:
            if isinstance(action, Launch | Replace | Resume):
                node = action.node
                hypervisor.domains.pop(node.domain, None)
                hypervisor.start(node.domain, domain.xml(node.machine, node.context))
        if found.die == "started":
            raise Killed

    def remove(_cluster, actions, _host, hypervisor, _report):
        for action in actions:
            hypervisor.remove(action.domain)
        if found.die == "removed":
            raise Killed

    class Ready(wait.Wait):
        def until_ready(self):
            must = {n for n, w in self.ways.items() if w.awaited}
            found.waited.append((must, set(self.ways) - must))
            if found.die == "waiting":
                raise Killed
            for name in sorted(must):
                way = self.ways[name]
                said = Report(name, "b", 1, "failed" if name in found.fails else "healthy", 2.0)
                row = replace(way.row, stage=said.stage, boot="b", uptime=2.0, message="",
                              context="" if name in found.fails else way.watched.base)  # fmt: skip
                self._at(way, row)
            self._flush()
            return {n: self.ways[n].row for n in must}

    monkeypatch.setattr(Site, "connect", lambda *_: found.machines)
    monkeypatch.setattr(deploy, "apply", apply)
    monkeypatch.setattr(deploy, "remove", remove)
    monkeypatch.setattr(deploy, "shape", lambda *_: [])
    monkeypatch.setattr(deploy, "guard", lambda *_: [])
    monkeypatch.setattr(guarding, "demand", lambda _: None)
    monkeypatch.setattr(wait, "Wait", Ready)
    monkeypatch.setattr(leaving, "leave", lambda *_: None)
    yield found
    found.ledger.close()


ALL = {"head-1", "worker-1", "worker-2"}


def file(site, text=CLUSTER):
    path = site.home / "demo.yaml"
    path.write_text(text)
    return path


def up(site, text=CLUSTER, **more):
    return launch.up(site, file(site, text), None, more.get("replace", False), lambda _: None)


def kinds(drawn):
    return {type(a) for a in drawn.changes}


def stages(site):
    return {r.name: r.stage for r in site.ledger.nodes("demo")}


@pytest.mark.parametrize("where", ["started", "waiting"])
def test_a_first_launch_that_was_killed_is_waited_for_by_the_next(site, where):
    site.die = where
    with pytest.raises(Killed):
        up(site)
    assert set(stages(site).values()) == {"defined"}
    site.die, site.waited = "", []
    assert kinds(up(site)) == {Meet} and site.waited == [(ALL, set())]
    site.waited = []
    up(site)
    assert site.waited == [], "and then there is nothing left"


@pytest.mark.parametrize("where", ["started", "waiting"])
def test_a_replaced_node_is_not_ready_because_the_one_before_it_was(site, where):
    up(site)
    site.die, site.waited = where, []
    with pytest.raises(Killed):
        launch.renew(site, "demo", ["head-1"], lambda _: None)
    assert stages(site)["head-1"] == "defined"
    site.die, site.waited = "", []
    assert kinds(up(site)) == {Meet} and [must for must, _ in site.waited] == [{"head-1"}]


def test_scaling_down_that_was_killed_while_it_removed(site):
    up(site)
    site.die = "removed"
    with pytest.raises(Killed):
        launch.scale(site, "demo", {"worker": 1}, lambda _: None)
    site.die = ""
    assert not launch.scale(site, "demo", {"worker": 1}, lambda _: None).changes
    assert set(stages(site)) == {"head-1", "worker-1"}


def test_a_generation_counts_a_change_once_however_often_it_was_killed(site):
    assert up(site).row.generation == 1
    changed = CLUSTER + "data: {motd: hello}\n"
    for where in ("started", "waiting", ""):
        site.die = where
        try:
            found = launch.recontext(site, "demo", file(site, changed), lambda _: None)
        except Killed:
            continue
    assert found.row.generation == 2 and set(stages(site).values()) == {"healthy"}
    assert {r.context for r in site.ledger.nodes("demo")} == {
        found.plan.documents.base(n) for n in ALL
    }
    assert up(site, changed).row.generation == 2


def test_a_degraded_cluster_is_repaired_by_the_next_up_without_touching_the_healthy(site):
    spare = CLUSTER + "    min: 1\n"
    site.fails = {"worker-2"}
    said = []
    launch.up(site, file(site, spare), None, False, said.append)
    assert "demo is degraded: worker-2 not ready; phx up tries again" in said
    assert stages(site) == {"head-1": "healthy", "worker-1": "healthy", "worker-2": "failed"}
    site.waited, site.fails = [], set()
    assert kinds(up(site, spare)) == {Meet} and site.waited == [({"worker-2"}, set())]
    assert set(stages(site).values()) == {"healthy"}


def test_recontext_starts_replaces_and_removes_nothing(site):
    up(site)
    larger = CLUSTER.replace("count: 2", "count: 3")
    with pytest.raises(InputError, match="1 nodes would be started, replaced or removed"):
        launch.recontext(site, "demo", file(site, larger), lambda _: None)
    assert set(stages(site)) == ALL


def test_two_at_once_on_one_cluster_go_one_after_the_other(site):
    up(site)
    said, order = [], []
    entered, leave = threading.Event(), threading.Event()

    def first():
        with site.locked("cluster-demo", lambda _: None):
            entered.set()
            leave.wait(5)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(5)

    def report(text):
        said.append(text)
        leave.set()

    launch.scale(site, "demo", {"worker": 3}, report)
    order.append("second")
    thread.join(5)
    assert order == ["first", "second"]
    assert said[0] == "waiting for another phx that changes cluster-demo"


def test_who_waited_builds_on_what_the_one_before_changed(site, monkeypatch):
    """Two people scale two roles at once: neither undoes the other's change."""
    up(site)
    real, others = Site.locked, []

    @contextlib.contextmanager
    def locked(self, name, report):
        if name == "cluster-demo" and not others:
            others.append(name)
            launch.scale(site, "demo", {"worker": 3}, report)  # came first
        with real(self, name, report):
            yield

    monkeypatch.setattr(Site, "locked", locked)
    launch.scale(site, "demo", {"head": 2}, lambda _: None)
    assert set(stages(site)) == {"head-1", "head-2", "worker-1", "worker-2", "worker-3"}


def test_nobody_starts_a_machine_again_for_a_cluster_that_was_taken_down(site, monkeypatch):
    """One phx waits for a node with something to spare while another takes the cluster down."""
    monkeypatch.setattr(deploy, "take_down", lambda *_: site.machines.domains.clear())
    started = []
    monkeypatch.setattr(deploy, "relaunch", lambda _p, node, *_: started.append(node.name))

    def down_and_mend(self):
        launch.down(site, "demo", lambda _: None)
        self._mend("worker-2")

    monkeypatch.setattr(wait.Wait, "until_ready", down_and_mend)
    with pytest.raises(WorkFailed, match="so is the cluster demo: another phx took it down"):
        up(site, CLUSTER.replace("    count: 2\n", "    count: 2\n    min: 1\n"))
    assert started == [] and not Path(site.files("demo")).exists()


def test_a_cluster_begins_without_the_events_of_one_that_had_its_name(site):
    site.ledger.note("demo", "worker-1", "healthy")
    up(site)
    assert "healthy" not in [e.what for e in site.ledger.events("demo")][:1]


def test_nodes_that_a_new_one_does_not_concern_are_left_alone(site):
    """Workers see the head only; the head knows them all."""
    alone = CLUSTER + "    context: {sees: [head]}\n"
    up(site, alone)
    site.waited = []
    launch.scale(site, "demo", {"worker": 3}, lambda _: None)
    assert site.waited == [({"head-1", "worker-3"}, set())]


READS = """\
    context:
      requires: [{fact: id, of: all, before: healthy}]
      sees: []
"""
GIVES = "    context: {sees: [], provides: [{name: id, command: hostname}]}\n"


def test_who_reads_what_a_new_node_gives_is_heard_and_so_are_all_who_give_it(site):
    text = CLUSTER.replace("    ssh_to: [worker]\n", READS) + GIVES
    up(site, text)
    site.waited = []
    launch.scale(site, "demo", {"worker": 3}, lambda _: None)
    assert site.waited == [({"worker-3"}, {"head-1", "worker-1", "worker-2"})]
    site.waited = []
    launch.scale(site, "demo", {"worker": 2}, lambda _: None)
    assert site.waited == [(set(), {"head-1", "worker-1", "worker-2"})], "and when one goes"


def test_who_was_started_by_another_is_waited_for_and_nothing_else_happens(site):
    """A host that was booted anew has started its guests: the ledger says ready, the machine does not."""
    up(site)
    site.machines.ready.remove("demo.worker-2")
    site.waited = []
    said = []
    drawn = launch.up(site, file(site), None, False, said.append)
    assert kinds(drawn) == {Meet} and site.waited == [({"worker-2"}, set())]
    assert said == ["worker-2 ready (2.0 s after its kernel started)"]
    assert up(site).changes == ()


def test_autostart_is_a_flag_that_replaces_and_awaits_nobody(site):
    up(site)
    site.waited, said = [], []
    on = CLUSTER + "    autostart: true\n"
    host = replace(site.ledger.host("lab"), hook=True)
    site.ledger.put_host(host)
    drawn = launch.up(site, file(site, on), None, False, said.append)
    assert kinds(drawn) == {Flag} and site.waited == []
    assert said == [f"worker-{n} starts when its host does" for n in (1, 2)]
    assert site.machines.starting == {"demo.worker-1", "demo.worker-2"}
    assert up(site, on).changes == ()
    launch.up(site, file(site), None, False, said.append)
    assert (
        site.machines.starting == set()
        and said[-1] == "worker-2 no longer starts when its host does"
    )


def test_autostart_is_refused_where_nobody_would_hold_who_starts(site):
    with pytest.raises(
        InputError, match="does not hold guests to their promises that start without phx"
    ):
        up(site, CLUSTER + "    autostart: true\n")


def test_what_becomes_of_a_node_that_crashes_is_told_while_it_runs(site):
    up(site)
    site.waited, said = [], []
    on = CLUSTER + "    crash: restart\n"
    drawn = launch.up(site, file(site, on), None, False, said.append)
    assert kinds(drawn) == {Flag} and site.waited == []
    assert said == [f"worker-{n} starts again when its kernel crashes" for n in (1, 2)]
    seen = {s.mark.role: s.crash for s in site.machines.observe()}
    assert seen == {"head": "destroy", "worker": "restart"}
    assert up(site, on).changes == ()
