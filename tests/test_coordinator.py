"""Whatever nodes say in whatever order, each is told what it may know as soon as it is complete, and nothing twice."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize.context import Context, Member
from contextualize.coordinator import Coordinator
from contextualize.declared import Declared, Provide, Require
from contextualize.exchange import Exchange
from contextualize.identity import derive
from contextualize.message import Given, Report, Want
from contextualize.part import named
from contextualize.render import Documents
from tests.invented import SECRET

NODES = {"head-1": "head", "worker-1": "worker", "worker-2": "worker", "other-1": "other"}
ROLES = {
    "head": Declared(provides=(Provide("key", "hook", secret=True, to=("worker",)), Provide("up", "tcp", "1")),
                     requires=(Require("id", of="quorum", late=True),)),
    "worker": Declared(provides=(Provide("id", "hook"),), requires=(Require("key"), Require("up"))),
    "other": Declared(),
}  # fmt: skip


def cluster(again=(), nodes=NODES):
    members = tuple(
        Member(derive(SECRET, "c", n), r, f"10.7.0.{i + 1}", 24)
        for i, (n, r) in enumerate(NODES.items())
    )
    documents = Documents(Context("c", members, (), (), declared=ROLES))
    return Coordinator(documents, Exchange(ROLES, NODES, {"worker": 1}), nodes, again)


def report(node, stage, boot="b", context="", seq=0):
    return Report(node, boot, seq, stage, 1.0, context=context)


def fact(node, name, value=b"v", boot="b"):
    return Given(node, boot, 0, 1.0, name, value)


def told(coordinator):
    return [(node, next(iter(body))) for node, body in coordinator.due()]


def complete(coordinator, node):
    """The node takes what it is told."""
    digest = coordinator._digest(node)
    for stage in ("contextualized", "healthy"):
        coordinator.hear(report(node, stage, context=digest))


def test_each_is_told_when_all_that_it_needs_is_there():
    c = cluster()
    for node in NODES:
        c.hear(report(node, "booted"))
    assert told(c) == [("head-1", "context"), ("other-1", "context")]
    assert c.missing("worker-1") == ("key of head (0 of 1)", "up of head (0 of 1)")
    c.hear(fact("head-1", "key"))
    assert told(c) == []
    c.hear(fact("head-1", "up", None))
    assert told(c) == [("worker-1", "context"), ("worker-2", "context")]
    assert told(c) == [], "nothing is told twice"
    complete(c, "head-1")
    assert not c.settled("head-1") and c.late("head-1") == ("id of worker (0 of 1)",)
    c.hear(fact("worker-2", "id"))
    assert told(c) == [("head-1", "context")], "what its health waited for is news to it"
    complete(c, "head-1")
    assert c.settled("head-1")


def test_nobody_is_told_before_it_has_booted_or_when_it_is_not_listened_to():
    c = cluster(nodes=["head-1"])
    assert told(c) == []
    c.hear(report("other-1", "booted"))
    assert told(c) == []


def test_a_new_channel_or_another_boot_is_told_again():
    c = cluster()
    c.hear(report("other-1", "booted"))
    assert told(c) == [("other-1", "context")]
    c.opened("other-1")
    assert told(c) == [("other-1", "context")]
    c.hear(report("other-1", "booted", boot="b2"))
    assert told(c) == [("other-1", "context")]
    c.hear(report("other-1", "booted", boot="b2", seq=7))
    assert told(c) == [("other-1", "context")], (
        "its agent is another: what the last one was told died with it"
    )
    complete(c, "other-1")
    c.opened("other-1")
    assert told(c) == [], "it said what is in force there"


def test_what_is_in_force_is_not_sent_again():
    c = cluster()
    c.hear(report("other-1", "booted"))
    c.due()
    c.hear(report("other-1", "healthy", context=c._digest("other-1")))
    c.opened("other-1")
    assert told(c) == [] and c.settled("other-1")


def test_an_older_context_in_force_is_replaced():
    c = cluster()
    c.hear(report("other-1", "booted"))
    c.hear(report("other-1", "healthy", context="old"))
    assert not c.settled("other-1") and told(c) == [("other-1", "context")]


def test_a_fact_given_twice_with_different_values_is_the_nodes_failure():
    c = cluster()
    c.hear(fact("head-1", "key", b"1"))
    c.hear(fact("head-1", "key", b"1"))
    assert c.wrong == {}
    c.hear(fact("head-1", "key", b"2"))
    assert c.wrong == {"head-1": "head-1 gave key twice, with different values"}
    c.hear(fact("head-1", "key", b"3", boot="b2"))
    assert c.exchange.knows("head-1", "key").value == b"3", "after a restart it may be another"


def test_a_fact_that_its_role_does_not_provide_is_the_nodes_failure():
    c = cluster()
    c.hear(fact("worker-1", "key"))
    assert c.wrong == {
        "worker-1": "worker-1 gave the fact key, which its role worker does not provide"
    }
    assert c.exchange.knows("head-1", "key") is None


def test_an_old_failure_is_tried_again_once():
    c = cluster(again=["other-1"])
    c.hear(report("other-1", "booted"))
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert c.retries("other-1") and told(c) == [("other-1", "again")]
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert told(c) == [] and not c.retries("other-1")


def test_an_old_failure_that_comes_after_the_first_order_is_old_all_the_same():
    c = cluster(again=["other-1"])
    c.hear(report("other-1", "booted"))
    assert told(c) == [("other-1", "context")]
    c.hear(report("other-1", "failed", context="of another context"))
    assert c.retries("other-1") and told(c) == []
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert not c.retries("other-1") and told(c) == []


def test_an_old_failure_of_the_same_context_is_tried_again_however_late_it_comes():
    c = cluster(again=["other-1"])
    c.hear(report("other-1", "booted"))
    assert told(c) == [("other-1", "context")]
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert c.retries("other-1") and told(c) == [("other-1", "again")]
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert not c.retries("other-1") and told(c) == []


def test_a_failure_of_what_it_was_told_is_new():
    c = cluster(again=["other-1"])
    c.hear(report("other-1", "booted"))
    c.hear(report("other-1", "failed", context="of another context"))
    assert c.retries("other-1") and told(c) == [("other-1", "context")]
    c.hear(report("other-1", "failed", context=c._digest("other-1")))
    assert not c.retries("other-1") and told(c) == []


def test_who_is_given_up_is_heard_no_more():
    c = cluster()
    c.hear(fact("worker-1", "id"))
    c.lose("worker-1")
    c.hear(report("worker-1", "booted"))
    c.hear(fact("worker-1", "id"))
    assert c.exchange.missing("head", late=True) == ("id of worker (0 of 1)",)


anything = st.one_of(
    st.builds(report, st.sampled_from(sorted(NODES)),
              st.sampled_from(["booted", "contextualized", "healthy", "failed", "left"]),
              st.sampled_from(["b", "b2"]), st.sampled_from(["", "old"])),
    st.builds(fact, st.sampled_from(sorted(NODES)), st.sampled_from(["key", "up", "id", "x"]),
              st.sampled_from([None, b"SECRET-OF-HEAD", b"\xff"]), st.sampled_from(["b", "b2"])),
    st.builds(Want, st.sampled_from(sorted(NODES)), st.just("b"), st.just(3), st.just(1.0),
              st.lists(st.sampled_from(["no such part"]), max_size=2).map(tuple)),
    st.sampled_from([("opened", n) for n in NODES] + [("forget", n) for n in NODES]
                    + [("due", ""), ("hurry", ""), ("lose", "worker-2")]),
)  # fmt: skip


@given(st.lists(anything, max_size=30))
def test_no_word_of_a_node_breaks_it_or_opens_what_is_not_its(words):
    c = cluster()
    for word in words:
        if not isinstance(word, tuple):
            c.hear(word)
        elif word[0] == "opened":
            c.opened(word[1])
        elif word[0] == "forget" and word[1] in c.exchange.members:
            c.forget(word[1])
        elif word[0] == "hurry":
            c.hurry()
        elif word[0] == "lose" and word[1] in c.exchange.members:
            c.lose(word[1])
        elif word[0] == "due":
            for node, body in c.due():
                assert node in NODES and not c.missing(node), "only when it is complete"
                if "context" in body and NODES[node] != "worker":
                    assert (
                        "SECRET-OF-HEAD" not in json.dumps(body["context"]["facts"])
                        or node == "head-1"
                    )
                    assert "key" not in body["context"]["facts"]


@pytest.mark.parametrize("node", sorted(NODES))
def test_no_secret_in_what_is_shown(node):
    c = cluster()
    c.hear(fact("head-1", "key", b"SECRET"))
    assert "SECRET" not in repr(c.exchange.facts("worker")) and "SECRET" not in repr(
        fact("head-1", "key", b"SECRET")
    )


MANY = {"head-1": "head", **{f"worker-{n}": "worker" for n in range(1, 5)}, "other-1": "other"}


def many(before=()):
    members = tuple(
        Member(derive(SECRET, "c", n), r, f"10.7.0.{i + 1}", 24)
        for i, (n, r) in enumerate(MANY.items())
    )
    documents = Documents(Context("c", members, (), (), declared=ROLES))
    return Coordinator(documents, Exchange(ROLES, MANY, {"worker": 2}), MANY, (), before)


def test_nothing_changes_for_a_node_before_all_that_were_ready_have_repeated_what_they_gave():
    """A quorum of two is there after the second of four: the head was told of all four, and is not told of fewer."""
    first = many()
    for n in range(1, 5):
        first.hear(fact(f"worker-{n}", "id"))
    first.hear(report("head-1", "booted"))
    in_force = first._digest("head-1")
    c = many(before=MANY)
    c.hear(report("head-1", "booted"))
    c.hear(report("head-1", "healthy", context=in_force))
    for n in range(1, 5):
        assert c.listens
        c.hear(fact(f"worker-{n}", "id"))
        c.hear(report(f"worker-{n}", "healthy", context="w", seq=1))
        assert "head-1" not in [node for node, _ in c.due()]
    assert not c.listens and c.settled("head-1")


def test_who_was_ready_and_is_silent_holds_the_others_no_longer_than_it_may():
    c = many(before=MANY)
    c.hear(report("head-1", "booted"))
    c.hear(report("head-1", "healthy", context="all four"))
    for n in (1, 2, 3):
        c.hear(fact(f"worker-{n}", "id"))
        c.hear(report(f"worker-{n}", "healthy", context="w", seq=1))
    assert "head-1" not in [node for node, _ in c.due()] and c.listens
    c.hurry()
    assert "head-1" in [node for node, _ in c.due()] and not c.listens


def test_a_node_that_boots_again_takes_back_what_it_gave():
    c = cluster()
    c.hear(report("head-1", "booted"))
    c.hear(fact("head-1", "key"))
    c.hear(fact("head-1", "up", None))
    assert not c.missing("worker-1")
    c.hear(report("head-1", "booted", boot="b2"))
    assert c.missing("worker-1") == ("key of head (0 of 1)", "up of head (0 of 1)")


def test_parts_go_to_whose_document_has_them_and_each_line_is_made_once():
    c = many()
    c.hear(fact("head-1", "key", b"x" * 5000))
    c.hear(fact("head-1", "up", None))
    for node in MANY:
        c.hear(report(node, "booted"))
    told = {node: order["context"] for node, order in c.due() if isinstance(order, dict)}
    [secret] = named(told["worker-1"])
    for node in MANY:
        c.hear(Want(node, "b", 5, 1.0, (secret, "ab" * 32)))
    lines = dict(c.due())
    assert set(lines) == {n for n, role in MANY.items() if role == "worker"}, (
        "nobody else reads the key"
    )
    assert len({id(line) for line in lines.values()}) == 1


def test_a_fact_for_one_role_is_no_work_for_the_others(monkeypatch):
    """Of the others nothing is drawn, and nothing is looked at."""
    c = many()
    for node in MANY:
        c.hear(report(node, "booted"))
    c.due()
    c.moved()
    drawn = []
    real = Documents.told
    monkeypatch.setattr(
        Documents,
        "told",
        lambda self, node, alike: (drawn.append(node), real(self, node, alike))[1],
    )
    for n in (1, 2):
        c.hear(fact(f"worker-{n}", "id"))
    assert told(c) == [("head-1", "context")] and set(drawn) == {"head-1"}
    assert c.moved() == {"worker-1", "worker-2", "head-1"}
