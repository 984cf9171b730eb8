"""Placement never promises a host's room twice, whatever the order of its arguments, and says who is roomiest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import NoRoom, explain
from cluster.hosts.policy import Uplink
from cluster.place import Room, lend, place
from tests.invented import promise

G = 1 << 30


def room(host, cpu, memory, network):
    return Room(host, cpu, memory, network, network)


def need(cpu=500, memory=G, network=10**6):
    return promise(cpu, cpu, memory, network, network, G)


guarantees = st.builds(
    need,
    st.integers(10, 3000),
    st.integers(1, 4).map(lambda n: n * G),
    st.integers(1, 9).map(lambda n: n * 10**6),
)
wanteds = st.lists(guarantees, max_size=8).map(lambda gs: [(f"n-{i}", g) for i, g in enumerate(gs)])
rooms = st.lists(
    st.tuples(
        st.integers(0, 8000), st.integers(0, 12).map(lambda n: n * G), st.integers(0, 40_000_000)
    ),
    max_size=4,
).map(lambda rs: [room(f"h{i}", *r) for i, r in enumerate(rs)])


def outcome(wanted, hosts, pinned=None):
    try:
        return place(wanted, hosts, pinned)
    except NoRoom as error:
        return explain(error)


@given(wanteds, rooms)
def test_never_overbooks(wanted, hosts):
    placed = outcome(wanted, hosts)
    if isinstance(placed, str):
        return
    assert set(placed) == {name for name, _ in wanted}
    given_ = dict(wanted)
    for room in hosts:
        here = [given_[n] for n, h in placed.items() if h == room.host]
        assert sum(g.cpu_guarantee for g in here) <= room.cpu
        assert sum(g.memory_min for g in here) <= room.memory
        assert sum(g.in_guarantee for g in here) <= room.inward
        assert sum(g.out_guarantee for g in here) <= room.outward


@given(wanteds, rooms, st.randoms(use_true_random=False))
def test_the_order_of_the_arguments_does_not_matter(wanted, hosts, chance):
    mixed, others = wanted[:], hosts[:]
    chance.shuffle(mixed)
    chance.shuffle(others)
    assert outcome(wanted, hosts) == outcome(mixed, others)


@given(wanteds)
def test_a_host_that_is_large_enough_is_never_refused(wanted):
    whole = room("h", sum(g.cpu_guarantee for _, g in wanted), sum(g.memory_min for _, g in wanted),
                 sum(g.in_guarantee for _, g in wanted))  # fmt: skip
    assert place(wanted, [whole]) == {name: "h" for name, _ in wanted}


def test_a_pinned_node_stays_where_it_runs_and_its_room_is_taken_first():
    hosts = [room("a", 1000, 4 * G, 10**9), room("b", 1000, 4 * G, 10**9)]
    wanted = [("big", need(memory=4 * G)), ("small", need(memory=G))]
    assert place(wanted, hosts, {"small": "a"}) == {"small": "a", "big": "b"}


def test_equal_nodes_are_placed_in_the_order_of_their_numbers():
    wanted = [(f"w-{n}", need()) for n in (10, 9, 2)]
    hosts = [room("a", 1000, 9 * G, 10**9), room("b", 500, 9 * G, 10**9)]
    assert place(wanted, hosts) == {"w-2": "a", "w-9": "a", "w-10": "b"}


def test_a_node_pinned_to_a_host_that_is_gone_is_refused():
    with pytest.raises(NoRoom, match="no host for n"):
        place([("n", need())], [room("a", 9000, 9 * G, 10**9)], {"n": "gone"})


@pytest.mark.parametrize(
    ("why", "hosts", "text"),
    [
        (
            "the most memory, then the most cores",
            [room("h1", 4000, 2 * G, 10**9), room("h2", 100, 3 * G, 2 * 10**7)],
            "error: no host for n: needs 0.5 cores, 4G and 1Mbit\n"
            "  hint: roomiest is h2 with 0.1 cores, 3G and 20Mbit left",
        ),
        (
            "nothing left is said as nothing",
            [room("h1", 0, 0, 0)],
            "error: no host for n: needs 0.5 cores, 4G and 1Mbit\n"
            "  hint: roomiest is h1 with 0 cores, 0B and 0bit left",
        ),
        (
            "no host at all",
            [],
            "error: no host for n: needs 0.5 cores, 4G and 1Mbit\n  hint: there is no host: phx host up",
        ),
    ],
)
def test_the_roomiest_is_named(why, hosts, text):
    assert outcome([("n", need(memory=4 * G))], hosts) == text, why


def test_what_lacks_is_found_in_each_resource():
    whole = room("h", 1000, 2 * G, 10**7)
    assert whole.holds(need(1000, 2 * G, 10**7)), "all of it may be given"
    assert not whole.holds(need(cpu=1001, memory=G))
    assert not whole.holds(need(memory=3 * G))
    for way in ("in_guarantee", "out_guarantee"):
        assert not whole.holds(replace(need(), **{way: 10**7 + 1})), way
    assert not whole.holds(need(network=10**7 + 1))


def test_disks_are_admitted_where_the_host_was_asked_for_its_space():
    small = replace(room("a", 9000, 64 * G, 10**9), disk=3 * G // 2)
    assert place([("n-1", need())], [small]) == {"n-1": "a"}
    assert outcome([("n-1", need()), ("n-2", need())], [small]) == (
        "error: no host for n-2: needs 0.5 cores, 1G, 1G of disk and 1Mbit\n"
        "  hint: roomiest is a with 8.5 cores, 63G, 512.0M of disk and 999Mbit left"
    )
    assert len(place([(f"n-{i}", need()) for i in range(9)], [replace(small, disk=None)])) == 9


def test_an_uplink_is_not_promised_twice():
    lent = Uplink("up0", 10_000_000)
    lend("a", lent, [need(network=4_000_000), need(network=5_900_000)])
    with pytest.raises(NoRoom, match="guarantees out of the network are 10Mbit together") as caught:
        lend("a", lent, [need(network=4_000_000), need(network=6_000_000)])
    assert "the uplink of host 'a' can promise 9900kbit" in explain(caught.value)
