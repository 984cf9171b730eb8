"""What was held is guarantees over time, what was used outlives restarts, and both outlive `phx down`."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cluster.guarantee import Guarantee
from cluster.ledger import Ledger
from cluster.metering.account import Held, Holding, Used, accounts, held, hold
from cluster.metering.usage import Usage
from cluster.site import Site, forget
from tests.invented import GUARANTEE, drawn, launched
from tests.test_ledger import ROW

START = datetime.datetime(2026, 1, 2, 3, 30, tzinfo=datetime.UTC)
MARK = launched(drawn())[0].mark
HOUR = 3600


def at(seconds):
    return START + datetime.timedelta(seconds=seconds)


def test_a_guarantee_held_for_an_hour():
    changes = [
        hold("demo", "ann", "w-1", GUARANTEE, at(0)),
        Holding(at(HOUR), "demo", "ann", "w-1"),
    ]
    assert held(changes, at(0), at(10 * HOUR)) == {
        ("demo", "ann"): Held(0.5 * HOUR, (512 << 20) * HOUR, 20_000_000 * HOUR, (4 << 30) * HOUR)
    }


def test_what_is_not_released_is_held_until_now_and_only_that_time_counts_which_was_asked_for():
    changes = [hold("demo", "ann", "w-1", GUARANTEE, at(0))]
    assert held(changes, at(100), at(110))[("demo", "ann")].cpu == pytest.approx(5)
    assert held(changes, at(-20), at(-10)) == {}


def test_another_owner_goes_on_from_there():
    changes = [
        hold("demo", who, "w-1", GUARANTEE, at(10 * n)) for n, who in enumerate(("ann", "bob"))
    ]
    found = held(changes, at(0), at(40))
    assert {whose: h.cpu for whose, h in found.items()} == {("demo", "ann"): 5, ("demo", "bob"): 15}


def test_changes_out_of_their_order_are_a_mistake():
    with pytest.raises(ValueError, match="order"):
        held(
            [hold("d", "a", "n", GUARANTEE, at(5)), hold("d", "a", "n", GUARANTEE, at(4))],
            at(0),
            at(9),
        )


steps = some.lists(
    some.tuples(some.integers(0, 100), some.sampled_from(["n-1", "n-2"]), some.sampled_from(["ann", "bob"]),
                some.integers(0, 4000)), max_size=12,
)  # fmt: skip


def changed(told):
    return [
        Holding(at(second), "demo", who, node, cpu, cpu, cpu, cpu)
        for second, node, who, cpu in sorted(told)
    ]


@given(steps, some.integers(0, 120), some.integers(0, 120))
def test_the_integral_is_the_sum_over_each_second(told, first, last):
    changes = changed(told)
    found = held(changes, at(first), at(last))
    for who in ("ann", "bob"):
        slow = 0.0
        for second in range(first, last):
            for node in ("n-1", "n-2"):
                before = [c for c in changes if c.node == node and c.time <= at(second)]
                if before and before[-1].owner == who:
                    slow += before[-1].cpu / 1000
        assert found.get(("demo", who), Held()).cpu == pytest.approx(slow)


@given(steps, some.integers(0, 120))
def test_two_spans_make_the_whole(told, middle):
    changes = changed(told)
    whole = held(changes, at(0), at(120))
    parts = held(changes, at(0), at(middle)), held(changes, at(middle), at(120))
    for whose in ("demo", "ann"), ("demo", "bob"):
        both = parts[0].get(whose, Held()) + parts[1].get(whose, Held())
        assert both.cpu == pytest.approx(whole.get(whose, Held()).cpu)
        assert both.disk == pytest.approx(whole.get(whose, Held()).disk)


def test_an_account_counts_nodes_and_has_who_only_used():
    changes = [hold("demo", "ann", n, GUARANTEE, at(0)) for n in ("w-1", "w-2")]
    changes.append(Holding(at(10), "demo", "ann", "w-2"))
    found = accounts(changes, {("old", "bob"): Used(2.0, sent=5)}, at(0), at(20))
    assert [(a.cluster, a.owner, a.nodes, a.held.cpu, a.used.cpu) for a in found] == [
        ("demo", "ann", 1, 15.0, 0.0), ("old", "bob", 0, 0.0, 2.0),
    ]  # fmt: skip


# In the ledger.


@pytest.fixture
def books(tmp_path):
    ledger = Ledger(tmp_path)
    yield ledger.books
    ledger.close()


def test_only_changes_are_written(books):
    more = replace(GUARANTEE, cpu_guarantee=750)
    for second in (0, 1):
        books.hold("demo", "ann", {"w-1": GUARANTEE, "w-2": GUARANTEE}, at(second))
    books.hold("demo", "ann", {"w-1": more}, at(2))
    for second in (3, 4):
        books.release("demo", ["w-2"], at(second))
    assert books.holdings() == [
        hold("demo", "ann", "w-1", GUARANTEE, at(0)), hold("demo", "ann", "w-2", GUARANTEE, at(0)),
        hold("demo", "ann", "w-1", more, at(2)), Holding(at(3), "demo", "ann", "w-2"),
    ]  # fmt: skip


def test_a_cluster_is_released_whole_and_no_other(books):
    books.hold("demo", "ann", {"w-1": GUARANTEE}, at(0))
    books.hold("other", "ann", {"w-1": GUARANTEE}, at(0))
    books.release("demo", at=at(5))
    books.release("nobody", at=at(5))
    assert [(h.cluster, h.released) for h in books.holdings()] == [
        ("demo", False), ("other", False), ("demo", True),
    ]  # fmt: skip


def usage(cpu, run=1, **more):
    told = {"received": 0, "sent": 0, "read": 0, "written": 0, **more}
    return Usage("demo.head-1", MARK, run, cpu * 10**9, 0, 0, **told)


def seen(books, *looks, who="ann"):
    for second, found in looks:
        books.observe({"demo": who}, [found], at(second))
    return books.used(at(0), at(10 * HOUR)).get(("demo", who))


def test_what_is_used_adds_up_over_restarts_of_the_guest(books):
    looks = (
        (0, usage(5, sent=7)),
        (1, usage(9, sent=8)),
        (2, usage(2, run=2, sent=1)),
        (3, usage(2, run=2, sent=1)),
    )
    assert seen(books, *looks) == Used(11.0, sent=9)


def test_what_a_driver_does_not_tell_counts_nothing_until_it_does(books):
    assert seen(
        books, (0, usage(1, read=None)), (1, usage(1, read=10)), (2, usage(1, read=None))
    ) == Used(1.0, read=10)


def test_each_owner_and_hour_by_itself(books):
    seen(books, (0, usage(5)), (HOUR, usage(8)))
    seen(books, (2 * HOUR, usage(9)), who="bob")
    assert books.used(at(0), at(HOUR / 4)) == {("demo", "ann"): Used(5.0)}
    assert books.used(at(HOUR), at(10 * HOUR)) == {
        ("demo", "ann"): Used(3.0), ("demo", "bob"): Used(1.0)
    }  # fmt: skip


def test_another_guest_of_the_name_counts_from_nothing(books):
    seen(books, (0, usage(5)))
    books.release("demo", ["head-1"])
    assert seen(books, (1, usage(6))) == Used(11.0)


def test_what_is_of_no_cluster_of_ours_is_left_out(books):
    books.observe({}, [usage(5)], at(0))
    assert books.used(at(0), at(HOUR)) == {}


def test_the_record_outlives_the_cluster(tmp_path):
    site = Site(tmp_path, "ann")
    site.ledger.open_cluster(replace(ROW, owner="ann"), [])
    site.ledger.books.hold("demo", "ann", {"w-1": GUARANTEE}, at(0))
    site.ledger.books.observe({"demo": "ann"}, [usage(5)], at(0))
    forget(site, "demo")
    assert site.ledger.clusters() == []
    last = site.ledger.books.holdings()[-1]
    assert last.released and last.owner == "ann"
    changes, used = site.ledger.books.holdings(), site.ledger.books.used(at(0), at(1))
    (account,) = accounts(changes, used, at(0), last.time + datetime.timedelta(seconds=1))
    assert (account.nodes, account.used.cpu) == (0, 5.0)
    assert account.held.cpu == pytest.approx(0.5 * (last.time - at(0)).total_seconds())
    site.ledger.close()


def test_a_guarantee_of_nothing_is_not_held():
    assert hold("c", "o", "n", Guarantee(0, 0, 0, 0, 0, 0, 0, 0, 0), at(0)).released
