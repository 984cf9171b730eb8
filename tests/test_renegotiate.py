"""What running nodes are promised changes whole or not at all, wherever it is cut off, whoever else asks. No guest."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import replace

import pytest

from builder.errors import InputError, NoRoom, WorkFailed, explain
from cluster import deploy, launch, network
from cluster.contract import asked, enforce, proof, renegotiate
from cluster.guarantee import Balloon
from cluster.guard import Standing
from cluster.hosts import guarding
from cluster.hosts.policy import Uplink
from cluster.site import Site
from cluster.verify import look, mend
from cluster.verify.drift import Code
from tests.invented import CLUSTER
from tests.promised import NODES, Killed, ask, in_force, marks, running, up


@pytest.fixture
def site(tmp_path, monkeypatch):
    with running(tmp_path, monkeypatch) as found:
        yield found


def test_a_role_is_changed_while_it_runs_and_the_change_outlives_the_unchanged_file(site):
    words = ("cpu.guarantee=0.75", "network.limit=50Mbit", "memory=768M")
    outcome = ask(site, "demo/worker", *words)
    assert [c.node for c in outcome.changes] == ["worker-1", "worker-2"]
    for node in ("worker-1", "worker-2"):
        given = marks(site)[node]
        assert (given.cpu_guarantee, given.memory_min, given.memory_max) == (
            750,
            768 << 20,
            768 << 20,
        )
        assert given.in_limit == given.out_limit == 50_000_000 and in_force(site, node)
    assert marks(site)["head-1"].cpu_guarantee == 500, "nobody else"
    before = marks(site)
    assert not up(site).changes and marks(site) == before, "an unchanged file takes nothing back"
    assert ask(site, "demo/worker", *words).changes == (), "nor is it changed twice"
    assert [e.what for e in site.ledger.events("demo")][-1].startswith(
        "cpu.guarantee 0.5 -> 0.75; memory.min 1G -> 768M"
    )


def test_new_nodes_of_the_role_get_it_too_and_one_node_may_have_its_own(site):
    ask(site, "demo/worker", "cpu.guarantee=0.75")
    ask(site, "demo/worker-2", "cpu.guarantee=0.25")
    launch.scale(site, "demo", {"worker": 3}, lambda _: None)
    cores = {n: g.cpu_guarantee for n, g in marks(site).items()}
    assert cores == {"head-1": 500, "worker-1": 750, "worker-2": 250, "worker-3": 750}
    ask(site, "demo/worker", "cpu.guarantee=0.6")
    assert {g.cpu_guarantee for n, g in marks(site).items() if n != "head-1"} == {600}, (
        "what was said last holds"
    )


def test_what_the_file_says_later_holds(site):
    ask(site, "demo/head", "cpu.guarantee=0.75", "network.limit=50Mbit")
    drawn_ = up(site, CLUSTER.replace("guarantee: 0.5, limit: 1}", "guarantee: 0.25, limit: 1}"))
    assert [type(a).__name__ for a in drawn_.changes] == ["Adjust"]
    head = marks(site)["head-1"]
    assert (head.cpu_guarantee, head.in_limit) == (250, 50_000_000), (
        "and leaves alone what it does not touch"
    )
    assert {t.field for t in site.ledger.papers.terms("demo")} == {"in_limit", "out_limit"}
    ask(site, "demo/head", "network.limit=100Mbit")
    assert site.ledger.papers.terms("demo") == (), "as the file says needs no term"


def test_a_node_that_must_boot_again_is_left_alone_unless_told(site):
    for words, why in (
        (["cpu.limit=3"], "cpu.limit 3 takes 3 CPUs, it booted with 2"),
        (["memory=2G"], "memory.max is 2G, it booted with 1G"),
    ):
        before = marks(site)
        with pytest.raises(InputError) as caught:
            ask(site, "demo/worker-1", *words)
        assert explain(caught.value).startswith(
            f"error: demo/worker-1: needs restart: {why}\n  hint: phx set --restart"
        )
        assert marks(site) == before and site.ledger.papers.terms("demo") == ()


def test_who_may_boot_again_does_and_keeps_its_disk(site, monkeypatch):
    adjusted = []
    monkeypatch.setattr(deploy, "apply", lambda _p, actions, *_: adjusted.extend(actions))
    outcome = ask(site, "demo/worker-1", "memory=2G", restart=True)
    assert outcome.restarted == ("worker-1",)
    assert [(type(a).__name__, a.node.name) for a in adjusted] == [
        ("Keep", "head-1"), ("Adjust", "worker-1"), ("Keep", "worker-2"),
    ]  # fmt: skip
    assert {t.field for t in site.ledger.papers.terms("demo")} == {"memory_min", "memory_max"}


def test_up_restarts_nobody_by_surprise(site):
    larger = CLUSTER.replace("512M", "768M")
    with pytest.raises(
        InputError, match=r"1 running nodes would boot again: head-1 \(memory.max is 768M"
    ):
        up(site, larger)
    assert marks(site)["head-1"].memory_min == 512 << 20
    assert up(site, larger, restart=True).changes


@pytest.mark.parametrize(
    ("why", "whom", "words", "text"),
    [
        ("one node", "demo/worker-1", ["cpu.guarantee=1.9"],
         "worker-1 asks for 1.4 cores more than it has\n  hint: lab has 1.3 cores, 4608M and 940Mbit left"),
        ("a role asks for each of its nodes", "demo/worker", ["cpu.guarantee=1.2"],
         "worker-2 asks for 0.7 cores more than it has\n  hint: lab has 0.6 cores, 4608M and 940Mbit left"),
        ("bandwidth", "demo/worker", ["network.out.guarantee=600Mbit", "network.limit=1Gbit"],
         "worker-2 asks for 580Mbit of bandwidth out more than it has\n"
         "  hint: lab has 1.3 cores, 4608M and 940Mbit in, 360Mbit out left"),
    ],
)  # fmt: skip
def test_more_than_the_host_has_left_is_refused_with_what_is_left(why, whom, words, text, site):
    site.ledger.put_host(replace(site.ledger.host("lab"), cpu=2800))
    before = marks(site)
    with pytest.raises(NoRoom) as caught:
        ask(site, whom, *words)
    assert explain(caught.value) == f"error: {text}", why
    assert marks(site) == before and site.ledger.papers.intents() == ()


def test_a_limit_above_the_machine_is_refused(site):
    with pytest.raises(NoRoom, match=r"cpu.limit 9 is more than host 'lab' has"):
        ask(site, "demo/worker", "cpu.limit=9", restart=True)


def test_a_guarantee_above_its_limit_is_refused_for_each_node(site):
    ask(site, "demo/worker-2", "cpu.limit=1")
    with pytest.raises(InputError) as caught:
        ask(site, "demo/worker", "cpu.guarantee=1.5", "network.guarantee=1Gbit")
    assert explain(caught.value).splitlines()[0] == (
        "error: worker-1: network.in.guarantee would be above network.in.limit"
    )
    assert "error: worker-2: cpu.guarantee would be above cpu.limit" in explain(caught.value)


def test_what_the_driver_cannot_hold_is_refused_with_the_key_the_host_and_the_reason(site):
    site.ledger.put_host(replace(site.ledger.host("lab"), driver="xen"))
    with pytest.raises(
        InputError, match=r"disk.iops: host 'lab' cannot hold it: libvirt's Xen driver"
    ):
        ask(site, "demo/worker", "disk.iops=100")


def test_one_refusal_of_the_kernels_and_all_of_it_is_as_it_was(site, monkeypatch):
    monkeypatch.setattr(enforce, "STILL", 0.0)
    before = marks(site)
    site.bench.stuck = ("demo.worker-2", Balloon)
    with pytest.raises(WorkFailed) as caught:
        ask(site, "demo/worker", "cpu.guarantee=0.75", "memory=768M", "network.limit=50Mbit")
    said = explain(caught.value)
    assert said.startswith(
        "error: worker-2 cannot have it; everything is as it was\n  because: worker-2's balloon"
    )
    assert marks(site) == before and all(in_force(site, n) for n in NODES)
    assert site.ledger.papers.intents() == () == site.ledger.papers.terms("demo")


@pytest.mark.parametrize(
    ("whom", "text"),
    [
        ("demo/worke", "no node and no role 'worke' in demo\n  hint: did you mean 'worker'?"),
        ("dmo/worker", "no cluster 'dmo'\n  hint: did you mean 'demo'?"),
        ("worker", "no node 'worker'\n  hint: did you mean 'worker-2'?"),
    ],
)
def test_whom(whom, text, site):
    with pytest.raises(InputError) as caught:
        renegotiate.addressed(site, whom)
    assert explain(caught.value) == f"error: {text}"


def test_cut_off_anywhere_it_is_taken_back_or_finished_by_the_next(site):
    """A hundred times, at a point that chance chooses: no node between two guarantees, no change half made."""
    chance, ends = random.Random(6), {"before": 0, "after": 0}
    for n in range(100):
        old = marks(site)
        words = (
            f"cpu.guarantee=0.{5 + n % 4}",
            f"network.limit={50 + n % 7}Mbit",
            f"memory={600 + n % 5}M",
        )
        site.bench.fuse = chance.randrange(10)
        with contextlib.suppress(Killed):
            ask(site, "demo/worker", *words)
        site.bench.fuse = -1
        said = []
        if n % 5:
            ask(site, "demo/head", "cpu.guarantee=0.5", report=said.append)
        else:
            launch.up(site, site.home / "demo.yaml", None, False, said.append)
        assert all(in_force(site, node) for node in NODES), n
        new = marks(site)
        wanted = {
            node: replace(old[node], **asked.asked(words)) for node in NODES if node != "head-1"
        }
        held = {node: new[node] for node in wanted}
        assert held in ({node: old[node] for node in wanted}, wanted), f"{n}: all of it or nothing"
        ends["after" if held == wanted else "before"] += 1
        assert site.ledger.papers.intents() == ()
    assert min(ends.values()) > 10, "both were seen"


def test_two_who_race_for_the_last_room_one_has_it_and_the_other_is_told_what_is_left(site):
    """A hundred times, without a leak: what is promised is what the marks say, and that is what the host has."""
    host, given = site.ledger.host("lab"), {"worker-1": 20_000, "worker-2": 20_000}
    for n in range(1, 101):
        site.ledger.put_host(replace(host, network=60_000_000 + n * 100_000))
        won, lost = [], []

        def run(node, won=won, lost=lost):
            try:
                ask(site, f"demo/{node}", f"network.guarantee={given[node] + 100}kbit")
                won.append(node)
            except NoRoom as cause:
                lost.append(explain(cause))

        threads = [threading.Thread(target=run, args=(node,)) for node in given]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(won) == len(lost) == 1, n
        assert "asks for 100kbit of bandwidth in more than it has" in lost[0]
        assert lost[0].endswith("and 0bit left"), "and is told what is left"
        given[won[0]] += 100
        held = {node: g.in_guarantee // 1000 for node, g in marks(site).items()}
        assert held == {"head-1": 20_000, **given}
    assert site.ledger.papers.intents() == ()


def test_what_was_cut_off_is_counted_in_full_until_it_is_settled(site):
    site.ledger.put_host(replace(site.ledger.host("lab"), cpu=1800))
    site.bench.fuse = 1
    with contextlib.suppress(Killed):
        ask(site, "demo/worker-1", "cpu.guarantee=0.8", "network.limit=50Mbit")
    site.bench.fuse = -1
    assert len(site.ledger.papers.intents()) == 1
    from cluster import occupancy

    assert occupancy.room(site, site.ledger.host("lab")).cpu == 0


def test_drift_is_seen_counted_and_set_again(site):
    assert all(line.ok for line in proof.look(site, "demo"))
    xml, state = site.bench.domains["demo.worker-1"]
    site.bench.domains["demo.worker-1"] = (xml.replace(">512<", ">99<"), state)
    site.bench.held.pop(network.tap("demo", "worker-1"))
    for times in (1, 2):
        bad = [line for line in proof.look(site, "demo") if line.ok is False]
        assert [(x.node, x.resource, x.violations) for x in bad] == [
            ("worker-1", "cpu", times), ("worker-1", "network in", times), ("worker-1", "network out", times),
        ]  # fmt: skip
    assert bad[0].measured.startswith("cgroup shares 99") and bad[1].measured == "nothing holds it"
    said = []
    launch.up(site, site.home / "demo.yaml", None, False, said.append)
    assert said == ["bandwidth of worker-1 set again", "cpu of worker-1 set again"]
    lines = proof.look(site, "demo")
    assert all(line.ok for line in lines) and max(line.violations for line in lines) == 2, (
        "history stays"
    )


def test_what_is_off_violates_nothing(site):
    xml, _ = site.bench.domains["demo.worker-1"]
    site.bench.domains["demo.worker-1"] = (xml, "off")
    lines = [line for line in proof.look(site, "demo") if line.node == "worker-1"]
    assert {(line.measured, line.ok) for line in lines} == {("it does not run", None)}


def test_what_an_uplink_carries_is_not_promised_twice(site, monkeypatch):
    site.ledger.put_uplink("lab", Uplink("up0", 100_000_000))
    monkeypatch.setattr(Site, "uses_uplink", lambda *_: ["demo"])
    before = marks(site)
    with pytest.raises(NoRoom) as caught:
        ask(site, "demo/worker", "network.out.guarantee=45Mbit", "network.out.limit=60Mbit")
    assert explain(caught.value) == (
        "error: the nodes' guarantees out of the network are 110Mbit together\n"
        "  hint: the uplink of host 'lab' can promise 99Mbit; lower network.out.guarantee"
    )
    assert marks(site) == before
    led = []
    monkeypatch.setattr(deploy, "lead_out", lambda plan, _: led.extend(deploy.shares(plan)))
    ask(site, "demo/worker", "network.out.guarantee=39Mbit", "network.out.limit=60Mbit")
    assert [s.guarantee for s in led] == [20_000_000, 39_000_000, 39_000_000], "its shares follow"
    assert marks(site)["worker-1"].out_guarantee == 39_000_000


def test_what_was_cut_off_is_told_by_verify_and_settled_by_its_fix(site, monkeypatch):
    for name, answer in (("_links", {}), ("_disks", {}), ("_uplink", ())):
        monkeypatch.setattr(look, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(guarding, "compared", lambda *_: (Standing(), Standing()))
    before, host = marks(site), site.ledger.host("lab")
    site.bench.fuse = 3
    with pytest.raises(Killed):
        ask(site, "demo/worker", "cpu.guarantee=0.75", "memory=768M")
    site.bench.fuse = -1
    looked = look.cluster(site, "demo", site.reach(host), site.bench)
    cut = [d for d in looked.drifts if d.code is Code.CUT]
    assert [(d.cluster, d.node) for d in cut] == [("demo", "worker-1"), ("demo", "worker-2")]
    said = []
    mend.cluster(looked, site.reach(host), site.bench, site.ledger.papers, said.append)
    assert "worker-1: a change that had been cut off was taken back" in said
    assert marks(site) == before and all(in_force(site, node) for node in NODES)
    again = look.cluster(site, "demo", site.reach(host), site.bench)
    assert Code.CUT not in {d.code for d in again.drifts} and site.ledger.papers.intents() == ()
