"""The guard's rules are the same for the same guests, and what nft reads back tells whose differ."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import CommandFailed, EnvironmentLacks, WorkFailed
from cluster import deploy, guard
from cluster.guard import Sender, Standing
from cluster.hosts import guarding
from tests.invented import CLUSTER, drawn

ONE = Sender("phxt00000001", "52:54:00:00:00:01", "10.9.0.1")
TWO = Sender("phxt00000002", "52:54:00:00:00:02", "10.9.0.2")
SAID = (Path(__file__).parent / "cases" / "guard" / "two-guests.json").read_text()
"""`nft -j list table` 1.0.6 of ONE and TWO, after TWO had three frames refused."""


def test_the_rules_of_two_guests(golden):
    golden("guard.nft", guard.ruleset("demo", [ONE, TWO]))


@given(st.permutations([ONE, TWO, Sender("phxt00000003", "52:54:00:00:00:03", "10.9.0.3")]))
def test_the_order_of_the_guests_never_matters(guests):
    assert guard.ruleset("demo", guests) == guard.ruleset("demo", sorted(guests))


def test_nobody_to_guard_takes_the_table_away():
    assert guard.ruleset("demo", []) == "table bridge phx-demo\ndelete table bridge phx-demo\n"


@given(st.binary(min_size=6, max_size=6))
def test_the_link_local_address_is_in_its_network_and_holds_the_mac(raw):
    found = guard.link_local(":".join(f"{b:02x}" for b in raw)).packed
    assert found[:8] == b"\xfe\x80" + bytes(6)
    assert bytes([found[8] ^ 2]) + found[9:11] + found[13:] == raw


def test_every_guest_of_a_plan_speaks_for_itself():
    plan = drawn()
    assert [s.address for s in plan.senders] == [n.address for n in plan.nodes]
    assert [s.mac for s in plan.senders] == [n.identity.mac for n in plan.nodes]
    routed = drawn(CLUSTER.replace("    count: 2\n", "    count: 2\n    source: any\n"))
    assert [s.tap for s in routed.senders] == [routed.nodes[0].machine.tap]


def test_what_nft_says_is_read():
    found = guard.standing(SAID)
    assert sorted(found.allotted) == [ONE.tap, TWO.tap]
    assert found.refused == {TWO.tap: 3}
    assert guard.senders(found) == {ONE.tap: ONE, TWO.tap: TWO}
    assert len([r for r in found.rules if r.startswith('["rule"')]) > 20
    assert guard.standing("") == Standing()


def changed(edit):
    """SAID, every entry passed through `edit`; what it makes None is left out."""
    entries = [edit(kind, told) for e in json.loads(SAID)["nftables"] for kind, told in e.items()]
    return guard.standing(json.dumps({"nftables": [e for e in entries if e]}))


def test_handles_and_counts_make_no_difference():
    def edit(kind, told):
        more = {"handle": 99} if "handle" in told else {}
        kept = {} if told.get("name") == "refused" else told
        return {kind: {**kept, **{k: told[k] for k in ("name", "type") if k in told}, **more}}

    shall = guard.standing(SAID)
    assert changed(edit) == shall and guard.differing(shall, changed(edit)) == ()


def test_a_rule_that_was_taken_away_concerns_everybody():
    def edit(kind, told):
        return None if kind == "rule" and told["chain"] == "arp_frame" else {kind: told}

    assert guard.differing(guard.standing(SAID), changed(edit)) == (ONE.tap, TWO.tap)
    assert guard.differing(guard.standing(SAID), Standing()) == (ONE.tap, TWO.tap)


def test_another_address_concerns_its_guest_alone():
    def edit(kind, told):
        return {kind: json.loads(json.dumps(told).replace("10.9.0.2", "10.9.0.3"))}

    assert guard.differing(guard.standing(SAID), changed(edit)) == (TWO.tap,)


class Kernel:
    """A host with an nft of few words: it gives back the sets that it was given, and one rule for all the text."""

    def __init__(self):
        self.host = SimpleNamespace(name="lab", hook=False)
        self.tables, self.done, self.fails, self.deaf = {}, [], None, False

    def run(self, argv, *, timeout, data=b""):
        if self.fails:
            raise self.fails
        text, name = data.decode(), argv[-1]
        if argv[2] == guarding._SET:
            self.done.append(text)
            if not self.deaf:
                self.tables[re.search(r"bridge (\S+)", text)[1]] = self.read(text)
            return ""
        now = self.tables.get(name, "")
        return now if argv[2] == guarding._NOW else f"{self.read(text)}\n{now}"

    @staticmethod
    def read(text):
        if text.count("\n") == 2:
            return ""
        sets = re.findall(r"set (\w+) \{ type[^\n]* elements = \{\n(.*?)\n    \} \}", text, re.S)
        told = [
            {"set": {"name": name, "type": "", "elem": [
                {"concat": re.findall(r'[^\s".]\S*[^\s",]', line)} for line in items.splitlines()]}}
            for name, items in sets
        ]  # fmt: skip
        return json.dumps({"nftables": [*told, {"rule": {"expr": text.count("goto")}}]})


@pytest.fixture
def kernel():
    return Kernel()


def test_set_once_and_not_again(kernel):
    assert guarding.ensure(kernel, "demo", [ONE, TWO]) == (ONE.tap, TWO.tap)
    assert guarding.ensure(kernel, "demo", [TWO, ONE]) == ()
    assert len(kernel.done) == 1
    assert guarding.ensure(kernel, "demo", [ONE]) == (TWO.tap,)


def test_who_leaves_keeps_its_rules_until_it_is_gone(kernel):
    guarding.ensure(kernel, "demo", [ONE, TWO])
    assert guarding.ensure(kernel, "demo", [ONE], leaving={TWO.tap}) == ()
    assert len(kernel.done) == 1
    guarding.ensure(kernel, "demo", [ONE])
    assert set(guard.senders(guarding.read(kernel, "demo"))) == {ONE.tap}


def test_a_plan_is_told_by_its_nodes(kernel):
    plan = drawn()
    assert deploy.guard(plan, kernel) == [n.name for n in plan.nodes]
    fewer = drawn(CLUSTER.replace("count: 2", "count: 1"))
    assert deploy.guard(fewer, kernel, ["worker-2"]) == []
    assert len(guard.senders(guarding.read(kernel, "demo"))) == 3


def test_taken_away_once(kernel):
    guarding.remove(kernel, "demo")
    assert kernel.done == [], "there was nothing"
    guarding.ensure(kernel, "demo", [ONE])
    guarding.ensure(kernel, "other", [TWO])
    guarding.remove(kernel, "demo")
    assert kernel.tables == {"phx-demo": "", "phx-other": kernel.tables["phx-other"]}
    assert guarding.read(kernel, "demo") == Standing()


def test_a_host_without_nft_is_refused_with_both_ways_out(kernel):
    kernel.fails = CommandFailed(["sh"], 127, "")
    with pytest.raises(EnvironmentLacks, match=r"host 'lab' .* it has no nft") as caught:
        guarding.demand(kernel)
    assert "apt-get install nftables" in caught.value.hint and "source: any" in caught.value.hint
    assert guarding.read(kernel, "demo") == Standing(), "it holds nothing, so nothing is there"
    guarding.remove(kernel, "demo")


def test_a_kernel_that_cannot_is_refused_with_its_words(kernel):
    kernel.fails = CommandFailed(["sh"], 1, "Error: Could not process rule: Not supported")
    with pytest.raises(EnvironmentLacks, match="cannot keep guests") as caught:
        guarding.demand(kernel)
    assert "Not supported" in str(caught.value.__cause__)


def test_what_reads_back_otherwise_is_a_failure(kernel):
    kernel.deaf = True
    with pytest.raises(WorkFailed, match="read back otherwise"):
        guarding.ensure(kernel, "demo", [ONE])
