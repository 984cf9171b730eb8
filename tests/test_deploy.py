"""A plan is carried out in an order that survives its own death, and one node's failure does not stop the others.

The machines are the fake's; what a host's disk and network would do is written down instead.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import WorkFailed
from cluster import deploy, domain
from cluster.actions import Keep, Launch, Remove, Replace, Resume
from cluster.hosts.fake import FakeHypervisor
from cluster.hosts.local import Here
from cluster.hosts.shaping import Shape
from tests.invented import CLUSTER, FOLDER, LAB, drawn

PLAN = drawn()
HEAD, FIRST, SECOND = PLAN.nodes
MADE = Path("made.qcow2")


class Bench(FakeHypervisor):
    """A hypervisor, and all that was done in its order: (verb, node or name, more...)."""

    def __init__(self):
        super().__init__()
        self.done, self.said, self.shapes, self.broken = [], [], {}, set()
        self.lock = threading.Lock()

    def note(self, verb, name, *more):
        with self.lock:
            self.done.append((verb, name, *more))
        if (verb, name) in self.broken:
            raise WorkFailed(f"{verb} of {name} is broken")

    def start_network(self, name, xml):
        self.note("network", name)
        super().start_network(name, xml)

    def start(self, name, xml):
        self.note("start", name.partition(".")[2])
        super().start(name, xml)

    def remove(self, name):
        self.note("stop", name.partition(".")[2])
        super().remove(name)

    def remove_network(self, name):
        self.note("remove network", name)
        super().remove_network(name)

    def verbs(self, node):
        return [entry[0] for entry in self.done if entry[1] == node]

    def at(self, verb, node):
        return next(n for n, entry in enumerate(self.done) if entry[:2] == (verb, node))

    def apply(self, *actions):
        def inscribe(node, disk):
            assert disk == MADE
            self.note("inscribe", node.name)

        deploy.apply(PLAN, actions, self.reach, self, self.said.append, inscribe)


@pytest.fixture
def bench(monkeypatch):
    found = Bench()
    taps = {n.machine.tap: n.name for n in drawn(CLUSTER.replace("count: 2", "count: 9")).nodes}

    class Shaping:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ensure(self, tap, *shape):
            found.note("shape", taps[tap], shape)
            changed, found.shapes[tap] = found.shapes.get(tap) != shape, shape
            return changed

        def remove(self, tap):
            found.note("unshape", taps[tap])
            found.shapes.pop(tap, None)

    def noting(verb):
        def act(reach, cluster, *more):
            assert (reach, cluster) == (found.reach, "demo")
            found.note(verb, *(more or ("",)))

        return act

    @contextlib.contextmanager
    def made_disk(reach, cluster, node, *more):
        assert (reach, cluster) == (found.reach, "demo")
        found.note("make_disk", node, *more)
        yield MADE

    def remove_nodes(reach, cluster, *nodes):
        for node in nodes:
            noting("remove_node")(reach, cluster, node)

    found.reach = Here(LAB)
    monkeypatch.setattr(found.reach, "queues", Shaping)
    monkeypatch.setattr(deploy.store, "made_disk", made_disk)
    monkeypatch.setattr(deploy.store, "remove_nodes", remove_nodes)
    for verb in ("prepare", "put_seed", "remove_cluster"):
        monkeypatch.setattr(deploy.store, verb, noting(verb))
    monkeypatch.setattr(deploy.guarding, "remove", noting("unguard"))
    monkeypatch.setattr(deploy.seed, "iso", lambda files: b"iso of " + files["meta-data"])
    return found


def test_disk_and_seed_are_whole_before_the_domain_is_defined(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    assert bench.done[:2] == [("prepare", ""), ("network", "phx-demo")], "folders and network first"
    for n in PLAN.nodes:
        assert bench.verbs(n.name) == [
            "remove_node", "make_disk", "inscribe", "put_seed", "start", "shape"
        ]  # fmt: skip
    assert [e[:2] for e in bench.done[-3:]] == [("shape", n.name) for n in PLAN.nodes], "then all"
    assert sorted(bench.said) == ["head-1 started", "worker-1 started", "worker-2 started"]
    assert [s.state for s in bench.observe()] == ["running"] * 3
    assert bench.networks() == {"phx-demo": "demo"}


def test_each_node_gets_its_own(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    for n in PLAN.nodes:
        given = n.machine.guarantee
        assert ("make_disk", n.name, FOLDER, given.disk) in bench.done
        assert ("put_seed", n.name, b"iso of " + PLAN.seed(n.name)["meta-data"]) in bench.done
        shape = (
            Shape(given.in_guarantee, given.in_limit),
            Shape(given.out_guarantee, given.out_limit),
        )
        assert bench.shapes[n.machine.tap] == shape
        assert bench.domains[n.domain][0] == domain.xml(n.machine, n.context)


@pytest.mark.parametrize("verb", ["make_disk", "put_seed", "start"])
def test_one_nodes_failure_does_not_stop_the_others(verb, bench):
    bench.broken.add((verb, "head-1"))
    with pytest.raises(WorkFailed, match=f"{verb} of head-1 is broken"):
        bench.apply(*map(Launch, PLAN.nodes))
    assert [s.name for s in bench.observe()] == ["demo.worker-1", "demo.worker-2"]
    assert sorted(bench.said) == ["worker-1 started", "worker-2 started"]
    # Run again, it finishes the work.
    bench.broken.clear()
    bench.apply(Launch(HEAD), Keep(FIRST), Keep(SECOND))
    assert [s.state for s in bench.observe()] == ["running"] * 3 and len(bench.shapes) == 3


def test_of_many_failures_the_first_nodes_is_told(bench):
    bench.broken |= {("start", "worker-2"), ("make_disk", "worker-1")}
    with pytest.raises(WorkFailed, match="make_disk of worker-1"):
        bench.apply(*map(Launch, PLAN.nodes))


def test_replaced_is_stopped_before_its_disk_goes_and_started_after_the_new_one_is_there(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    bench.done.clear()
    bench.apply(Keep(HEAD), Replace(FIRST, "its image changed"), Keep(SECOND))
    assert bench.verbs("worker-1") == [
        "stop", "unshape", "remove_node", "remove_node", "make_disk", "inscribe", "put_seed", "start", "shape",
    ]  # fmt: skip
    assert bench.verbs("head-1") == bench.verbs("worker-2") == ["shape"], "kept is left alone"
    assert bench.said[-1] == "worker-1 replaced: its image changed"


def test_resumed_keeps_its_disk(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    bench.domains[HEAD.domain] = (bench.domains[HEAD.domain][0], "off")
    bench.done.clear()
    bench.apply(Resume(HEAD, "off"), Keep(FIRST), Keep(SECOND))
    assert bench.verbs("head-1") == ["shape"] and bench.observe()[0].state == "running"
    assert bench.said[-1] == "head-1 started again (it was off)"


def test_removed_with_device_and_files(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    bench.done.clear()
    bench.apply(Keep(HEAD), Keep(FIRST), Remove("worker-3", "demo.worker-3"))
    assert bench.verbs("worker-3") == ["stop", "unshape", "remove_node"]
    assert bench.said[-1] == "worker-3 removed"


def test_bandwidth_is_set_only_where_it_differs(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    assert deploy.shape(PLAN, bench.reach) == []
    bench.shapes[FIRST.machine.tap] = Shape(1, 2)
    assert deploy.shape(PLAN, bench.reach) == ["worker-1"]


def test_take_down_removes_what_the_hypervisor_shows_beyond_the_ledger(bench):
    many = drawn(CLUSTER.replace("count: 2", "count: 4")).nodes
    for n in many:
        bench.domains[n.domain] = (domain.xml(n.machine, n.context), "running")
    other = drawn(CLUSTER.replace("cluster: demo", "cluster: other"))
    for n in other.nodes:
        bench.domains[n.domain] = (domain.xml(n.machine, n.context), "running")
    bench.nets = {"phx-demo": PLAN.network_xml, "phx-other": other.network_xml}
    # worker-9 is known to the ledger alone: its launch died before the domain was defined.
    names = ["head-1", "worker-1", "worker-9"]
    deploy.take_down("demo", names, bench.reach, bench, bench.said.append)
    assert {s.mark.cluster for s in bench.observe()} == {"other"} and len(bench.observe()) == 3
    assert bench.networks() == {"phx-other": "other"}, "another cluster's are left"
    for name in ("head-1", *(f"worker-{n}" for n in (1, 2, 3, 9))):
        assert bench.verbs(name)[:3] == ["stop", "unshape", "remove_node"]
    last = max(n for n, entry in enumerate(bench.done) if entry[0] == "stop")
    unguarded, network = bench.at("unguard", ""), bench.at("remove network", "phx-demo")
    assert last < unguarded < network < bench.at("remove_node", "head-1")
    assert bench.done[-1] == ("remove_cluster", "")
    assert bench.said == ["6 nodes removed", "network and files of demo removed"]


def test_take_down_twice(bench):
    bench.apply(*map(Launch, PLAN.nodes))
    for _ in range(2):
        deploy.take_down(
            "demo", [n.name for n in PLAN.nodes], bench.reach, bench, bench.said.append
        )
        assert bench.observe() == () and bench.networks() == {}
    deploy.take_down("demo", [], bench.reach, bench, bench.said.append)


def test_take_down_leaves_anothers_domain_of_that_name(bench):
    bench.domains["demo.worker-1"] = ("<domain><name>demo.worker-1</name></domain>", "running")
    with pytest.raises(WorkFailed, match=r"domain demo\.worker-1 is not ours"):
        deploy.take_down("demo", ["worker-1"], bench.reach, bench, bench.said.append)
    assert "demo.worker-1" in bench.domains


def test_whatever_machine_a_node_gets_it_starts_with_its_host(bench):
    node = replace(FIRST, autostart=True)
    bench.apply(Launch(node), Launch(SECOND))
    assert bench.starting == {node.domain}
    deploy.relaunch(PLAN, node, bench.reach, bench, lambda *_: None)
    assert bench.starting == {node.domain}
