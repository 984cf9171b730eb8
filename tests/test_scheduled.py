"""Changes that are agreed now and made later: by one ticker, once, each with an end in the record. No guest."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import threading
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import EnvironmentLacks, InputError, NoRoom, explain
from cluster.contract import cli, renegotiate, tick
from cluster.contract.scheduled import Scheduled, due, in_order, moment, superseded, written
from cluster.guarantee import Balloon
from cluster.hosts.fake import FakeHypervisor
from cluster.site import Site, forget
from tests.invented import CLUSTER
from tests.promised import NODES, Killed, ask, in_force, marks, running, up

NOW = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def site(tmp_path, monkeypatch):
    with running(tmp_path, monkeypatch) as found:
        yield found


def after(seconds):
    return NOW + datetime.timedelta(seconds=seconds)


def later(site, whom, *words, seconds=60, restart=False):
    found = renegotiate.addressed(site, whom)
    return tick.schedule(site, found, words, after(seconds), NOW, restart, lambda _: None)


def come(site, seconds=60, report=lambda _: None):
    return tick.tick(site, after(seconds), report)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("+15m", "2026-11-25T12:15:00+00:00"),
        ("+90s", "2026-11-25T12:01:30+00:00"),
        ("14:30", "2026-11-25T13:30:00+00:00"),
        ("14:30:05", "2026-11-25T13:30:05+00:00"),
        ("2026-12-01T14:30Z", "2026-12-01T14:30:00+00:00"),
        ("2026-12-01T14:30+05:30", "2026-12-01T09:00:00+00:00"),
        ("2027-07-01 14:30", "2027-07-01T12:30:00+00:00"),
    ],
)
def test_a_time_as_people_write_it(text, means):
    assert written(moment(text, NOW, BERLIN)) == means


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("soon", "'soon' is not a time"),
        ("+15", "'+15' is not a time"),
        ("+0m", "'+0m' is not a time"),
        ("+99999999999999d", "'+99999999999999d' is not a time"),
        ("-5m", "'-5m' is not a time"),
        ("2026-12-01", "'2026-12-01' is not a time"),
        ("25:00", "'25:00' is not a time"),
        ("14", "'14' is not a time"),
        ("", "'' is not a time"),
        ("2027-03-28T02:30", "'2027-03-28T02:30' is not a time"),
        ("12:30", "'12:30' is past: now it is 2026-11-25T13:00:00+01:00"),
        ("2026-11-25T12:00Z", "'2026-11-25T12:00Z' is past: now it is 2026-11-25T13:00:00+01:00"),
    ],
)
def test_what_is_no_time_to_come_is_refused_with_what_to_write(text, said):
    with pytest.raises(InputError) as caught:
        moment(text, NOW, BERLIN)
    first, hint = explain(caught.value).splitlines()
    assert first == f"error: --at: {said}"
    assert hint.startswith(
        "  hint: write it as in" if "not a time" in said else "  hint: name a later time"
    )


changes = st.builds(
    lambda number, role, node, keys, at: Scheduled(
        number, "demo", role, node and f"{role}-{node}", tuple(f"{k}=0.5" for k in keys), written(after(at)), False, ""
    ),
    st.integers(1, 10**6), st.sampled_from("ab"), st.sampled_from(["", "1", "2"]),
    st.sets(st.sampled_from(["cpu.limit", "cpu.guarantee"]), min_size=1), st.integers(-99, 99),
)  # fmt: skip


@given(st.lists(changes, unique_by=lambda c: c.number), st.integers(-100, 100))
def test_due_is_what_waits_and_has_its_time_behind_it_whatever_the_order(found, seconds):
    now = after(seconds)
    todo = due(found, now)
    assert todo == due(reversed(found), now) == in_order(todo)
    assert {c.number for c in todo} == {c.number for c in found if c.at <= written(now)}
    assert due([replace(c, state="done") for c in found], now) == []


@given(st.lists(changes, unique_by=lambda c: c.number, max_size=8))
def test_leaving_out_what_is_superseded_leaves_the_same_in_the_end(found):
    def state(todo):
        held = {}
        for change in todo:
            for node in [change.node] if change.node else [f"{change.role}-1", f"{change.role}-2"]:
                held.update(
                    {(node, word.partition("=")[0]): change.number for word in change.words}
                )
        return held

    todo = in_order(found)
    over = superseded(todo)
    assert state(todo) == state(c for c in todo if c.number not in over)


def test_at_its_time_it_is_made_and_not_before(site):
    change = later(site, "demo/worker", "cpu.guarantee=0.75", "network.limit=50Mbit")
    before = marks(site)
    assert come(site, 59) == [] and marks(site) == before
    said = []
    (done,) = come(site, 61, said.append)
    assert (done.number, done.state, done.whom) == (change.number, "done", "demo/worker")
    assert {g.cpu_guarantee for n, g in marks(site).items() if n != "head-1"} == {750}
    assert all(in_force(site, node) for node in NODES)
    assert said[-1].startswith(
        "demo/worker: scheduled change 1 (cpu.guarantee=0.75 network.limit=50Mbit) done"
    )
    assert site.ledger.events("demo")[-1].what == said[-1].partition(": ")[2]
    assert come(site, 999) == [], "once"


def test_the_record_tells_how_late_it_was(site):
    change = later(site, "demo/head", "cpu.guarantee=0.6")
    site.ledger.diary.end(change.number, "done", written(after(75)))
    assert site.ledger.diary.all("demo")[0].late == 15
    assert not site.ledger.diary.end(change.number, "failed", ""), "an end is the end"


def test_it_is_admitted_now_with_what_is_scheduled_before(site):
    site.ledger.put_host(replace(site.ledger.host("lab"), cpu=2000))
    later(site, "demo/head", "cpu.guarantee=0.9", seconds=60)
    with pytest.raises(NoRoom) as caught:
        later(site, "demo/worker-1", "cpu.guarantee=0.7", seconds=90)
    assert explain(caught.value).startswith(
        "error: worker-1 asks for 0.2 cores more than it has\n  hint: lab has 0.1 cores"
    )
    with pytest.raises(NoRoom, match=r"take the room of change 1 \(demo/head at 2026-11-25T12:01"):
        later(site, "demo/worker-1", "cpu.guarantee=0.7", seconds=30)
    later(site, "demo/worker-2", "cpu.guarantee=0.3", seconds=80)
    later(site, "demo/worker-1", "cpu.guarantee=0.7", seconds=90)
    assert [c.state for c in come(site, 99)] == ["done"] * 3
    assert [marks(site)[n].cpu_guarantee for n in NODES] == [900, 700, 300]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpu.guarantee=1.5", "cpu.limit=1"], "cpu.guarantee would be above cpu.limit"),
        (["cpu.limit=3"], "needs restart: cpu.limit 3 takes 3 CPUs"),
        (["cpu.limits=3"], "unknown key 'cpu.limits'"),
    ],
)
def test_what_could_never_be_is_refused_now(words, said, site):
    with pytest.raises(InputError, match=said):
        later(site, "demo/worker-1", *words)
    assert site.ledger.diary.all() == []


def test_numbers_fit_together_with_those_scheduled_before(site):
    later(site, "demo/worker-1", "cpu.limit=0.6", seconds=10)
    with pytest.raises(InputError, match=r"cpu.guarantee would be above cpu.limit"):
        later(site, "demo/worker", "cpu.guarantee=0.8", seconds=20)


def test_room_that_another_took_meanwhile_is_told_in_the_record(site):
    site.ledger.put_host(replace(site.ledger.host("lab"), cpu=2000))
    later(site, "demo/head", "cpu.guarantee=0.9")
    ask(site, "demo/worker-1", "cpu.guarantee=0.9")
    before = marks(site)
    (end,) = come(site)
    assert end.state == "refused" and marks(site) == before
    assert end.why == (
        "head-1 asks for 0.4 cores more than it has hint: lab has 0.1 cores, 4608M and 940Mbit left"
    )


def test_a_change_that_does_not_come_about_failed_and_stops_no_other(site, monkeypatch):
    monkeypatch.setattr("cluster.contract.enforce.STILL", 0.0)
    later(site, "demo/worker", "memory=768M")
    later(site, "demo/head", "cpu.guarantee=0.6")
    site.bench.stuck = ("demo.worker-2", Balloon)
    first, second = come(site)
    assert (first.state, second.state) == ("failed", "done")
    assert first.why.startswith("worker-2 cannot have it; everything is as it was because: ")
    assert all(in_force(site, node) for node in NODES)


def test_a_host_that_does_not_answer_is_waited_for_and_in_the_end_it_is_lost(site, monkeypatch):
    later(site, "demo/head", "cpu.guarantee=0.6")
    answers = Site.connect

    def silent(*_):
        raise EnvironmentLacks("host 'lab' does not run", "phx host up lab")

    monkeypatch.setattr(Site, "connect", silent)
    assert come(site, 70) == []
    assert site.ledger.diary.waiting()[0].why == "host 'lab' does not run hint: phx host up lab"
    (end,) = come(site, 60 + 3601)
    assert end.state == "lost" and end.why.startswith("host 'lab' does not run")
    monkeypatch.setattr(Site, "connect", answers)
    assert come(site, 9999) == []


def test_a_cluster_that_goes_takes_what_waits_for_it_and_the_record_stays(site):
    later(site, "demo/head", "cpu.guarantee=0.6")
    forget(site, "demo")
    (lost,) = site.ledger.diary.all("demo")
    assert (lost.state, lost.why) == ("lost", "the cluster was removed")
    assert come(site, 9999) == [], "another of that name has nothing to do with it"


def test_a_node_that_is_gone_at_its_time_is_refused(site):
    later(site, "demo/worker-2", "cpu.guarantee=0.6")
    site.ledger.drop_nodes("demo", ["worker-2"])
    (end,) = come(site)
    assert end.state == "refused" and end.why.startswith("no node and no role 'worker-2' in demo")


def test_of_two_that_are_overdue_the_later_is_made_and_the_earlier_is_superseded(site):
    later(site, "demo/worker-1", "cpu.guarantee=0.7", seconds=10)
    later(site, "demo/worker", "cpu.guarantee=0.6", "cpu.limit=0.9", seconds=20)
    ends = come(site, 500)
    assert [(c.state, c.why) for c in ends] == [("superseded", "by change 2"), ("done", "")]
    assert marks(site)["worker-1"].cpu_guarantee == 600


def test_cancelled_it_is_never_made(site):
    change = later(site, "demo/head", "cpu.guarantee=0.6")
    assert tick.cancel(site, change.number, NOW, lambda _: None).state == "cancelled"
    assert come(site) == []
    for number, said in ((change.number, "change 1 is cancelled"), (7, "no change 7 is scheduled")):
        with pytest.raises(InputError, match=said):
            tick.cancel(site, number, NOW, lambda _: None)


def test_whoever_changes_the_cluster_makes_what_is_due_first(site):
    """An edited file is later than a change that was due before it, and is obeyed."""
    found = renegotiate.addressed(site, "demo/head")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    words = ("cpu.guarantee=0.75", "network.limit=50Mbit")
    tick.schedule(site, found, words, past, past, False, lambda _: None)
    up(site, CLUSTER.replace("guarantee: 0.5, limit: 1}", "guarantee: 0.25, limit: 1}"))
    head = marks(site)["head-1"]
    assert (head.cpu_guarantee, head.in_limit) == (250, 50_000_000)
    assert [c.state for c in site.ledger.diary.all()] == ["done"]
    assert site.ledger.diary.all()[0].late >= 7200


def test_two_who_tick_at_once_one_does_it(site, monkeypatch):
    """Twenty times: each change is made by exactly one of them."""
    made, real = [], renegotiate.renegotiate
    monkeypatch.setattr(
        renegotiate, "renegotiate", lambda *args: (made.append(str(args[1])), real(*args))[1]
    )
    for n in range(20):
        made.clear()
        later(site, "demo/head", f"network.limit={30 + n}Mbit")
        ends = []
        threads = [
            threading.Thread(target=lambda ends=ends: ends.extend(come(site))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert made == ["demo/head"] and [c.state for c in ends] == ["done"], n
        assert marks(site)["head-1"].in_limit == (30 + n) * 10**6


def test_killed_anywhere_the_next_tick_finishes_it(site):
    """At a point that chance chooses: in the end it is made, whole, and has one end."""
    chance = random.Random(7)
    for n in range(15):
        words = (f"cpu.guarantee=0.{5 + n % 4}", f"network.limit={50 + n % 7}Mbit")
        later(site, "demo/worker", *words)
        site.bench.fuse = chance.randrange(9)
        with contextlib.suppress(Killed):
            come(site)
        site.bench.fuse = -1
        come(site)
        assert {(g.cpu_guarantee, g.in_limit) for m, g in marks(site).items() if m != "head-1"} == {
            ((5 + n % 4) * 100, (50 + n % 7) * 10**6)
        }
        assert all(in_force(site, node) for node in NODES), n
        assert site.ledger.papers.intents() == () and site.ledger.diary.waiting() == []
    assert [c.state for c in site.ledger.diary.all()] == ["done"] * 15


def test_killed_between_the_change_and_its_end_it_has_its_end_from_the_next(site, monkeypatch):
    later(site, "demo/head", "cpu.guarantee=0.6")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(site.ledger.diary), "end", killed)
        come(site)
    effects = site.bench.effects
    assert [c.state for c in come(site)] == ["done"]
    assert site.bench.effects == effects, "what is in force is not set again"


def test_the_commands_tell_it(site, monkeypatch, capsys):
    monkeypatch.setattr(cli, "here", lambda: site)
    monkeypatch.setattr(FakeHypervisor, "close", lambda _: None, raising=False)
    cli.set_("demo/worker", ["cpu.limit=1.5"], False, "+1h", False)
    assert capsys.readouterr().out.startswith("change 1 of demo/worker is scheduled for 20")
    cli.scheduled("", None, False, True)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["for"], told["words"], told["state"]) == ("demo/worker", ["cpu.limit=1.5"], "waiting")  # fmt: skip
    cli.tick_("", True)
    assert json.loads(capsys.readouterr().out) == {"changes": [], "requests": []}
    with pytest.raises(InputError) as caught:
        cli.set_("demo/worker", ["cpu.limt=1.5"], False, "yesterday", False)
    assert explain(caught.value).endswith("2 errors, nothing was done")
    cli.scheduled("", 1, False, False)
    cli.scheduled("demo", None, False, False)
    assert capsys.readouterr().out == "change 1 of demo/worker is cancelled\nnothing is scheduled\n"
    with pytest.raises(InputError, match="no cluster 'dmo'"):
        cli.scheduled("dmo", None, False, False)
    cli.scheduled("demo", None, True, False)
    assert "cancelled" in capsys.readouterr().out
