"""Every kind of drift is found by its code, nothing is found where all is as promised, and each code is told of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.errors import WorkFailed
from cluster import deploy, domain, network
from cluster.actions import compare
from cluster.contract.enforce import shapes
from cluster.guard import Standing
from cluster.hosts.port import Seen
from cluster.hosts.shaping import Shape
from cluster.verify import look, mend
from cluster.verify.drift import MENDS, REMEDY, Code, Drift, Facts, Left, of_cluster, of_host
from tests.invented import CLUSTER, LAB, drawn, launched

PLAN = drawn()
HEAD, FIRST, SECOND = PLAN.nodes
SHALL = {n.machine.tap: shapes(n.machine.guarantee) for n in PLAN.nodes}
GUARD = Standing(("rules",), {n.machine.tap: ("allotted",) for n in PLAN.nodes})
FACTS = Facts(
    links={n.machine.tap: network.bridge("demo") for n in PLAN.nodes},
    shapes=dict(SHALL),
    guard=(GUARD, GUARD),
    disks={n.name: n.machine.guarantee.disk for n in PLAN.nodes},
    definitions={n.name: domain.xml(n.machine, n.context) for n in PLAN.nodes},
)


def found(facts=FACTS, seen=None, plan=PLAN):
    actions = compare(plan, launched(PLAN) if seen is None else seen)
    return [(d.code.name, d.node) for d in of_cluster(plan, actions, facts, SHALL)]


def put(mapping, key, value):
    return {**mapping, key: value}


def test_nothing_where_all_is_as_promised():
    assert found() == []


TAP = FIRST.machine.tap
NARROW = (Shape(1000, 2000), SHALL[TAP][1])
EDITED = FACTS.definitions["worker-1"].replace("root=/dev/vda", "root=/dev/vdc")


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("BANDWIDTH", replace(FACTS, shapes=put(FACTS.shapes, TAP, NARROW))),
        ("BANDWIDTH", replace(FACTS, shapes=put(FACTS.shapes, TAP, (SHALL[TAP][0], None)))),
        ("BRIDGE", replace(FACTS, links=put(FACTS.links, TAP, ""))),
        ("BRIDGE", replace(FACTS, links=put(FACTS.links, TAP, "docker0"))),
        ("TAP", replace(FACTS, links={t: b for t, b in FACTS.links.items() if t != TAP})),
        ("DISK", replace(FACTS, disks=put(FACTS.disks, "worker-1", None))),
        ("DISK", replace(FACTS, disks=put(FACTS.disks, "worker-1", 1 << 30))),
        ("EDITED", replace(FACTS, definitions=put(FACTS.definitions, "worker-1", EDITED))),
        ("SOURCE", replace(FACTS, guard=(GUARD, replace(GUARD, allotted=put(GUARD.allotted, TAP, ()))))),
        ("CPU", replace(FACTS, settings={"worker-1": [(Code.CPU, "shares 512", "shares 2")]})),
        ("MEMORY", replace(FACTS, settings={"worker-1": [(Code.MEMORY, "1G", "512M")]})),
        ("IO", replace(FACTS, settings={"worker-1": [(Code.IO, "10 iops", "none")]})),
    ],
)  # fmt: skip
def test_one_thing_that_differs_is_one_drift_of_its_node(code, facts):
    assert found(facts) == [(code, "worker-1")]


def test_rules_that_are_gone_concern_every_node():
    assert found(replace(FACTS, guard=(GUARD, Standing()))) == [
        ("SOURCE", n.name) for n in PLAN.nodes
    ]


def test_rules_for_nobody_are_told_of_the_cluster():
    more = replace(GUARD, allotted=put(GUARD.allotted, "phxt00000000", ("allotted",)))
    assert found(replace(FACTS, guard=(GUARD, more))) == [("SOURCE", "")]


def test_machines_that_are_not_as_planned():
    there = {s.mark.node: s for s in launched(PLAN)}
    assert found(seen=(there["head-1"], there["worker-1"])) == [("GONE", "worker-2")]
    off = replace(there["worker-2"], state="off")
    assert found(seen=(there["head-1"], there["worker-1"], off)) == [("OFF", "worker-2")]
    mark = replace(there["worker-2"].mark, digest="other")
    other = replace(there["worker-2"], mark=mark)
    assert found(seen=(there["head-1"], there["worker-1"], other)) == [("ANOTHER", "worker-2")]
    fewer = drawn(CLUSTER.replace("count: 2", "count: 1"))
    assert ("ANOTHER", "worker-2") in found(plan=fewer)


CLEAN = Left(
    domains={"demo.head-1": "demo"}, networks={"phx-demo": "demo"}, tables=frozenset({"phx-demo"}),
    folders=frozenset({"demo"}),
    devices=frozenset({"lo", "eth0", network.bridge("demo"), TAP, network.ifb(TAP)}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "thing", "left"),
    [
        ("DOMAIN", "old.a-1", replace(CLEAN, domains={"old.a-1": "old"})),
        ("NETWORK", "phx-old", replace(CLEAN, networks={"phx-old": "old"})),
        ("NETWORK", "phx-old", replace(CLEAN, tables=frozenset({"phx-old", "filter"}))),
        ("FILES", "old", replace(CLEAN, folders=frozenset({"old", "demo"}))),
        ("DEVICE", "phxt00000000", replace(CLEAN, devices=CLEAN.devices | {"phxt00000000"})),
        ("DEVICE", "phxi00000000", replace(CLEAN, devices=CLEAN.devices | {"phxi00000000"})),
    ],
)
def test_what_is_left_of_no_cluster(code, thing, left):
    assert of_host("lab", CLEAN, ["demo"], [TAP]) == ()
    [one] = of_host("lab", left, ["demo"], [TAP])
    assert (one.code.name, one.thing, one.host, one.cluster) == (code, thing, "lab", "")


def test_every_code_is_told_of_and_has_a_remedy():
    text = (Path(__file__).parents[1] / "docs" / "verify.md").read_text()
    assert [c.value for c in Code if f"| `{c.value}` |" not in text] == []
    assert set(REMEDY) == set(Code) and len({c.value for c in Code}) == len(Code)
    assert {Code.CPU, Code.MEMORY, Code.IO, Code.BANDWIDTH, Code.SOURCE, Code.DEVICE} <= MENDS
    assert not MENDS & {Code.GONE, Code.ANOTHER, Code.DISK, Code.DOMAIN, Code.FILES}


class Reach:
    """A host that answers from a list and notes what it was told."""

    host = LAB

    def __init__(self, *answers):
        self.answers, self.done = list(answers), []

    def run(self, argv, **_):
        self.done.append(list(argv))
        return self.answers.pop(0) if self.answers else ""


def test_disks_are_known_by_their_headers():
    head = "514649fb" + "00" * 20 + f"{4 << 30:016x}"
    reach = Reach(f"0 {head}\n1 {head[:40]}\n2 \n3 {'00' * 32}\n")
    paths = {"a": "/a", "b": "/b", "c": "/c", "d": "/d"}
    assert look._disks(reach, paths) == {"a": 4 << 30, "b": None, "c": None, "d": None}


def test_devices_and_their_bridges():
    told = [{"ifname": "lo"}, {"ifname": "phxt1", "master": "phxb1"}, {}]
    assert look._links(Reach(json.dumps(told))) == {"lo": "", "phxt1": "phxb1"}


def test_only_what_no_guest_notices_is_mended(monkeypatch):
    reach, said, guarded, held = Reach(), [], [], []

    class Holding:
        def __init__(self, cluster, *_):
            assert cluster == "demo"

        def settle(self):
            held.append("settled")

        def hold(self, node, given):
            held.append((node, given))
            if node == "worker-2":
                raise WorkFailed("its balloon does not move")
            return ("cpu", "network")

    monkeypatch.setattr(mend, "Enforcer", Holding)
    monkeypatch.setattr(deploy, "guard", lambda plan, reach: guarded.append(plan.cluster))
    drifts = tuple(
        Drift(code, "lab", "demo", node, "it differs", TAP)
        for code in Code
        for node in ("worker-1", "worker-2")
    )
    looked = look.Looked(SimpleNamespace(plan=PLAN), drifts)
    mend.cluster(looked, reach, None, None, said.append)
    assert guarded == ["demo"]
    assert held.pop(0) == "settled", "before anything is held"
    assert held == [(n.name, n.machine.guarantee) for n in (FIRST, SECOND)], "once each"
    assert reach.done == [["ip", "link", "set", TAP, "master", network.bridge("demo"), "up"]] * 2
    assert said[-2:] == ["worker-1: cpu, network set again", "worker-2: its balloon does not move"]
    mend.host(drifts[:-2:2], reach, said.append)
    assert reach.done[2:] == [["ip", "link", "del", TAP]]


def test_a_definition_says_the_same_in_libvirts_words():
    ours = domain.essentials(FACTS.definitions["worker-1"])
    theirs = FACTS.definitions["worker-1"].replace("<vcpu>", "<vcpu placement='static'>")
    assert domain.essentials(theirs) == ours
    assert ours["MAC"] == FIRST.machine.mac and ours["device"] == TAP
    assert ours["disks"] == f"{FIRST.machine.disk}, {FIRST.machine.seed}"


def test_a_paused_node_is_off():
    there = [replace(s, state="paused") if s.mark.node == "head-1" else s for s in launched(PLAN)]
    assert isinstance(there[0], Seen)
    assert found(seen=there) == [("OFF", "head-1")]
