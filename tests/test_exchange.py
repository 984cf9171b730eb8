"""Roles that need each other: what cannot work is refused by name before anything starts; the rest is counted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contextualize.declared import Declared, Provide, Require, declared
from contextualize.exchange import FACT_LIMIT, STAGES, Exchange
from contextualize.requirements import flaws

KEY = Provide("key", "file", "/k", secret=True, to=("worker",))
READY = Provide("up", "tcp", "6817")
HEAD = Declared(provides=(KEY, READY))
WORKER = Declared(requires=(Require("key"), Require("up")))
COUNTS = {"head": 1, "worker": 3}


def said(roles, counts=COUNTS):
    return [(f.role, f.what, f.hint) for f in flaws(roles, counts)]


def test_a_head_and_its_workers_can_work():
    assert said({"head": HEAD, "worker": WORKER}) == []


@pytest.mark.parametrize(
    ("why", "roles", "what"),
    [
        ("nobody provides it", {"worker": WORKER},
         [("worker", "requires key, and no role provides it", "add it to a role's provides"),
          ("worker", "requires up, and no role provides it", "add it to a role's provides")]),
        ("the named role does not", {"head": Declared(), "worker": Declared(requires=(Require("key", role="head"),))},
         [("worker", "requires key, and the role head does not provide it", "add it to a role's provides")]),
        ("no such role", {"worker": Declared(requires=(Require(stage="healthy", role="nfs"),))},
         [("worker", "requires nfs healthy, and there is no such role", "correct its 'from'")]),
        ("not for it", {"head": Declared(provides=(Provide("key", "file", "/k", to=("head",)),)),
                        "worker": Declared(requires=(Require("key"),))},
         [("worker", "requires key, which head does not give to it", "add worker to its 'to'")]),
        ("given to no role", {"head": Declared(provides=(Provide("key", "file", "/k", to=("x",)),))},
         [("head", "gives key to 'x', which is no role", "correct its 'to'")]),
        ("twice", {"head": Declared(provides=(READY, READY))},
         [("head", "provides up twice", "give each fact one origin")]),
        ("more than there are", {"head": HEAD, "worker": Declared(requires=(Require("up", of=2),))},
         [("worker", "requires up of 2, and there are 1 such nodes", "ask for fewer, or raise the count")]),
        ("sees nobody of that name", {"head": Declared(sees=("wroker",))},
         [("head", "sees 'wroker', which is no role", "correct its 'sees'")]),
        ("a file of a fact that it does not require",
         {"head": declared({"files": [{"path": "/f", "mode": "0644", "fact": "key"}]})},
         [("head", "fills /f with key, which it does not require of one node", "add 'fact: key' to its requires")]),
    ],
)  # fmt: skip
def test_what_would_wait_for_ever_is_refused(why, roles, what):
    assert said(roles) == what, why


CYCLE = "let one of its facts be 'early', or let a requirement wait 'before: healthy'"


def test_a_cycle_is_named_event_by_event():
    head = Declared(provides=(READY,), requires=(Require("node"),))
    worker = Declared(provides=(Provide("node", "hook"),), requires=(Require("up"),))
    assert said({"head": head, "worker": worker}) == [
        ("head", "waits for itself: head contextualized <- worker.node <- worker contextualized <- head.up "
                 "<- head contextualized", CYCLE)
    ]  # fmt: skip


def test_a_role_may_need_its_own_fact_only_when_it_is_early():
    def role(early):
        return {"worker": Declared(provides=(Provide("id", "command", "id", early=early),),
                                   requires=(Require("id", of="all"),))}  # fmt: skip

    assert said(role(True)) == []
    assert said(role(False))[0][1] == (
        "waits for itself: worker contextualized <- worker.id <- worker contextualized"
    )


def test_health_that_waits_breaks_a_cycle():
    head = Declared(provides=(READY,), requires=(Require("node", of="all", late=True),))
    worker = Declared(provides=(Provide("node", "hook"),), requires=(Require("up"),))
    assert said({"head": head, "worker": worker}) == []


def test_stages_may_be_waited_for_and_cycles_of_them_are_found():
    a = Declared(requires=(Require(stage="healthy", role="b"),))
    b = Declared(requires=(Require(stage="booted", role="a"),))
    assert said({"a": a, "b": b}, {"a": 1, "b": 1}) == []
    b = Declared(requires=(Require(stage="contextualized", role="a"),))
    assert (
        "a contextualized <- b healthy <- b contextualized <- a contextualized"
        in said({"a": a, "b": b}, {"a": 1, "b": 1})[0][1]
    )


@pytest.mark.parametrize(
    "text", [{"provides": [{}]}, {"requires": 7}, {"files": [{"path": "x"}]}, {"healthy": [[]]}]
)
def test_what_is_no_declaration_is_refused(text):
    with pytest.raises(ValueError, match="not a declaration of context"):
        declared(text)


# the machine


def cluster(of="all", workers=3, **roles):
    members = {"head-1": "head"} | {f"worker-{n}": "worker" for n in range(1, workers + 1)}
    head = Declared(requires=(Require("id", of=of),), provides=(KEY,))
    worker = Declared(provides=(Provide("id", "hook"),), requires=(Require("key"),))
    return Exchange({"head": head, "worker": worker} | roles, members, {"worker": 2})


@pytest.mark.parametrize(("of", "enough"), [("one", 1), ("quorum", 2), ("all", 3), (2, 2)])
def test_how_many_are_enough(of, enough):
    exchange = cluster(of)
    for n in range(1, 4):
        waits = exchange.missing("head")
        assert bool(waits) == (n - 1 < enough)
        if waits:
            assert waits == (f"id of worker ({n - 1} of {enough})",)
        assert exchange.tell(f"worker-{n}", "id", b"%d" % n) == {"head"}
    assert exchange.missing("head") == ()


def test_a_node_that_is_given_up_is_not_waited_for():
    exchange = cluster("all")
    exchange.tell("worker-1", "id", b"1")
    exchange.tell("worker-3", "id", b"3")
    assert exchange.missing("head") == ("id of worker (2 of 3)",)
    assert "head" in exchange.lose("worker-2")
    assert exchange.missing("head") == ()
    exchange.lose("worker-3")
    assert set(exchange.facts("head")["id"]) == {"worker-1"}


def test_only_who_may_read_a_fact_reads_it():
    exchange = cluster()
    exchange.tell("head-1", "key", b"k3y")
    assert exchange.facts("worker")["key"]["head-1"].value == b"k3y"
    assert "key" not in exchange.facts("head")
    assert b"k3y" not in repr(exchange.facts("worker")).encode()


def test_told_twice_is_nothing_new_and_another_value_is():
    exchange = cluster()
    assert exchange.tell("worker-1", "id", b"1") == {"head"}
    assert exchange.tell("worker-1", "id", b"1") == set()
    assert exchange.tell("worker-1", "id", b"2") == {"head"}
    assert exchange.facts("head")["id"]["worker-1"].value == b"2"


def test_of_one_it_stays_the_same_one():
    exchange = cluster("one")
    exchange.tell("worker-2", "id", b"2")
    assert set(exchange.facts("head")["id"]) == {"worker-2"}
    exchange.tell("worker-1", "id", b"1")
    assert set(exchange.facts("head")["id"]) == {"worker-2"}, "a later giver changes nothing"
    exchange.lose("worker-2")
    assert set(exchange.facts("head")["id"]) == {"worker-1"}


@pytest.mark.parametrize(
    ("node", "name", "value", "text"),
    [
        (
            "worker-1",
            "other",
            b"x",
            "worker-1 gave the fact other, which its role worker does not provide",
        ),
        ("worker-1", "id", None, "worker-1 gave id, which should have a value"),
        (
            "head-1",
            "key",
            b"x" * (FACT_LIMIT + 1),
            "head-1 gave key with 1048577 bytes, 1048576 are allowed",
        ),
    ],
)
def test_what_no_node_of_the_role_gives_is_refused_by_name(node, name, value, text):
    with pytest.raises(ValueError, match="^" + text):
        cluster().tell(node, name, value)


def test_stages_count_and_a_restarted_node_is_at_its_start_again():
    exchange = Exchange(
        {"nfs": Declared(), "w": Declared(requires=(Require(stage="healthy", role="nfs"),))},
        {"nfs-1": "nfs", "w-1": "w"},
    )
    assert exchange.missing("w") == ("healthy of nfs (0 of 1)",)
    assert exchange.reach("nfs-1", "contextualized") == {"w"} and exchange.missing("w")
    assert exchange.reach("nfs-1", "healthy") == {"w"} and not exchange.missing("w")
    assert exchange.reach("nfs-1", "healthy") == set()
    exchange.reach("nfs-1", "booted")
    assert exchange.missing("w") == ("healthy of nfs (0 of 1)",)


TELLS = [("head-1", "key", b"k"), *((f"worker-{n}", "id", b"%d" % n) for n in range(1, 4))]


@given(st.lists(st.sampled_from(TELLS), max_size=12), st.permutations(TELLS))
def test_any_order_and_any_repetition_come_to_the_same(some, all_):
    first, second = cluster(), cluster()
    for tell in (*some, *all_):
        first.tell(*tell)
    for tell in TELLS:
        second.tell(*tell)
    for role in ("head", "worker"):
        assert first.missing(role) == second.missing(role) == ()
        assert first.facts(role) == second.facts(role)


def test_ten_thousand_nodes():
    exchange = cluster("all", workers=9_999)
    touched = [exchange.tell(f"worker-{n}", "id", b"x") for n in range(1, 10_000)]
    assert set(itertools.chain(*touched)) == {"head"} and exchange.missing("head") == ()
    exchange.tell("head-1", "key", b"k")
    for _ in range(10_000):
        assert exchange.missing("worker") == ()
    assert len(exchange.facts("head")["id"]) == 9_999


# any order of anything, beside a model that is nothing but what was said


MACHINE = {
    "head": Declared(
        provides=(KEY, READY, Provide("early", "command", "x", early=True)),
        requires=(Require("id", of="quorum", late=True), Require(stage="booted", role="worker", of=2)),
    ),
    "worker": Declared(
        provides=(Provide("id", "hook"), Provide("up", "tcp", "1")),
        requires=(Require("key"), Require("up", role="head"), Require("early", of="all")),
    ),
    "other": Declared(requires=(Require("up", of="all"), Require(stage="healthy", role="head"))),
}  # fmt: skip
MEMBERS = {"head-1": "head", "head-2": "head", "worker-1": "worker", "worker-2": "worker",
           "worker-3": "worker", "other-1": "other"}  # fmt: skip
QUORUM = {"worker": 2}
nodes = st.sampled_from(sorted(MEMBERS))


class Told(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.exchange = Exchange(MACHINE, MEMBERS, QUORUM)
        self.members, self.facts, self.stage = dict(MEMBERS), {}, dict.fromkeys(MEMBERS, -1)
        self.chosen = {}
        self.before = self.seen()

    # the model

    def have(self, need, node):
        if need.stage:
            return self.members[node] == need.role and self.stage[node] >= STAGES.index(need.stage)
        return need.role in ("", self.members[node]) and (node, need.fact) in self.facts

    def gives(self, need):
        """Nodes that could give it."""
        names = {r for r, d in MACHINE.items() if any(p.name == need.fact for p in d.provides)}
        names = {need.role} if need.stage else {r for r in names if need.role in ("", r)}
        return [n for n, role in self.members.items() if role in names], names

    def lacks(self, need):
        could, names = self.gives(need)
        wanted = {"one": 1, "all": max(1, len(could)),
                  "quorum": sum(QUORUM.get(r, list(self.members.values()).count(r)) for r in names)}  # fmt: skip
        return sum(self.have(need, n) for n in could) < wanted.get(need.of, need.of)

    def missing(self, role, late):
        return [need.late == late and self.lacks(need) for need in MACHINE[role].requires]

    # what is asked of it

    def seen(self):
        return {
            role: (self.exchange.missing(role), self.exchange.missing(role, late=True), self.exchange.facts(role))
            for role in MACHINE
        }  # fmt: skip

    def took(self, touched):
        """Whoever sees something else now was named: all others may keep what they have."""
        after = self.seen()
        assert {role for role in MACHINE if after[role] != self.before[role]} <= touched
        self.before = after

    @rule(
        node=nodes,
        name=st.sampled_from(["key", "up", "early", "id", "no"]),
        value=st.sampled_from([None, b"a", b"b"]),
    )
    def tell(self, node, name, value):
        role = self.members.get(node)
        given = next((p for p in MACHINE[role].provides if p.name == name), None) if role else None
        if role is None:
            return
        if given is None or (value is None) != given.ready:
            with pytest.raises(ValueError, match=f"^{node} gave "):
                self.exchange.tell(node, name, value)
            self.took(set())
            return
        self.facts[node, name] = value
        self.took(self.exchange.tell(node, name, value))

    @rule(node=nodes, stage=st.sampled_from(STAGES))
    def reach(self, node, stage):
        if node in self.members:
            self.stage[node] = STAGES.index(stage)
            self.took(self.exchange.reach(node, stage))

    def gone(self, node):
        self.facts = {key: v for key, v in self.facts.items() if key[0] != node}
        self.stage[node] = -1

    @rule(node=nodes)
    def forget(self, node):
        if node in self.members:
            self.gone(node)
            self.took(self.exchange.forget(node))

    @rule(node=nodes)
    def lose(self, node):
        if node in self.members and len(self.members) > 2:
            self.gone(node)
            del self.members[node]
            self.took(self.exchange.lose(node))

    @invariant()
    def it_is_complete_when_all_is_there(self):
        for role in MACHINE:
            for late in (False, True):
                assert len(self.exchange.missing(role, late)) == sum(self.missing(role, late))

    @invariant()
    def everybody_reads_what_it_may_and_nothing_else(self):
        for role, declared_ in MACHINE.items():
            readable = self.exchange.facts(role)
            for name, of in readable.items():
                assert name in {n.fact for n in declared_.requires}
                for node, fact in of.items():
                    giver = next(p for p in MACHINE[self.members[node]].provides if p.name == name)
                    assert not giver.to or role in giver.to
                    assert self.facts[node, name] == fact.value is not None
            for need in declared_.requires:
                if need.fact and need.of == "one" and need.fact in readable:
                    [chosen] = readable[need.fact]
                    old = self.chosen.get((role, need.fact))
                    assert chosen == old or (old, need.fact) not in self.facts
                    self.chosen[role, need.fact] = chosen


TestTold = Told.TestCase
TestTold.settings = settings(max_examples=40, stateful_step_count=20)
