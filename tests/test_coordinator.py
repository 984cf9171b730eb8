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
from contextualize.message import Given, Report
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
    st.sampled_from([("opened", n) for n in NODES] + [("due", "")] + [("lose", "worker-2")]),
)  # fmt: skip


@given(st.lists(anything, max_size=30))
def test_no_word_of_a_node_breaks_it_or_opens_what_is_not_its(words):
    c = cluster()
    for word in words:
        if not isinstance(word, tuple):
            c.hear(word)
        elif word[0] == "opened":
            c.opened(word[1])
        elif word[0] == "lose" and word[1] in c.exchange.members:
            c.lose(word[1])
        elif word[0] == "due":
            for node, body in c.due():
                assert node in NODES
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
