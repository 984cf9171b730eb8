"""What bandwidth costs grows with it, is never cheaper than measured, and decides who is admitted."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from builder.errors import NoRoom
from cluster import draft
from cluster.calibrate.curve import Calibration, Curve, Point, calibration, curve, refusal
from cluster.calibrate.sweep import TEXT, table
from cluster.hosts.cli import _cost
from cluster.ledger import Ledger
from cluster.place import Room
from cluster.plan import guarantee
from tests.invented import CLUSTER, GUARANTEE, LAB, spec

points = st.lists(
    st.builds(Point, st.just(1000), st.integers(1, 1000), st.none(), st.integers(0, 4 * 10**9)),
    min_size=1, max_size=9,
)  # fmt: skip
idles = st.integers(0, 50)


def made(idle, steps):
    try:
        return curve(idle, steps)
    except ValueError:
        assume(False)
        raise


@given(idles, points, st.floats(0, 1))
def test_what_it_takes_carries_it(idle, steps, part):
    found = made(idle, steps)
    bits = round(found.most * part)
    cores = found.cores_for(bits)
    assert cores is not None and found.bandwidth_for(cores) >= bits


@given(idles, points, st.integers(0, 1000), st.integers(0, 1000))
def test_more_cores_never_carry_less(idle, steps, one, other):
    found = made(idle, steps)
    low, high = sorted((one, other))
    assert found.bandwidth_for(low) <= found.bandwidth_for(high) <= found.most
    if found.bandwidth_for(low):
        assert found.cores_for(found.bandwidth_for(low)) <= low


@given(idles, points)
def test_no_measured_step_is_promised_for_less_than_some_step_used(idle, steps):
    """Whoever asks for what a step brought is told of at least as many cores as a step that brought no more used."""
    found = made(idle, steps)
    for step in (s for s in steps if 0 < s.bits <= found.most and s.used > idle):
        worst = max(s.used for s in steps if s.bits <= step.bits)
        assert found.cores_for(step.bits) >= worst


@given(idles, points)
def test_the_curve_grows_and_begins_with_nothing(idle, steps):
    line = made(idle, steps).points
    assert line[0] == (idle, 0)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(line))


def test_nothing_came_through():
    with pytest.raises(ValueError, match="no traffic was measured"):
        curve(20, [Point(500, 400, None, 0), Point(100, 20, None, 10**6)])


def test_beyond_what_was_reached_there_is_no_answer():
    found = Curve(((20, 0), (520, 10**9)))
    assert found.cores_for(10**9) == 520 and found.cores_for(10**9 + 1) is None
    assert found.cores_for(0) == 0, "no promise costs nothing"
    assert found.bandwidth_for(4000) == 10**9 and found.bandwidth_for(10) == 0


STEPS = (Point(1000, 620, 130, 3_000 * 10**6), Point(100, 110, 30, 270 * 10**6))
KNOWN = Calibration("2026-11-25T12:00:00+00:00", "qemu", 10, {"in": STEPS, "out": STEPS})


def asked(cpu, bits):
    return replace(GUARANTEE, cpu_guarantee=cpu, in_guarantee=bits, out_guarantee=bits)


def test_both_directions_add_up_and_idling_counts_once():
    assert KNOWN.cores_for(asked(500, 270 * 10**6)) == 110 + 110 - 10
    one_way = replace(asked(500, 270 * 10**6), in_guarantee=0)
    assert KNOWN.cores_for(one_way) == 110


def test_a_share_that_cannot_carry_is_refused_with_the_one_that_can():
    assert refusal(asked(500, 270 * 10**6), KNOWN) is None
    assert refusal(asked(210, 270 * 10**6), KNOWN) is None
    assert refusal(asked(209, 270 * 10**6), None) is None, "nobody measured, nobody refuses"
    assert refusal(asked(209, 270 * 10**6), KNOWN) == (
        "0.209 cores cannot carry its bandwidth guarantee, which takes 0.21",
        "raise cpu.guarantee to 0.21, or lower network.guarantee",
    )
    why, hint = refusal(asked(4000, 3001 * 10**6), KNOWN)
    assert "more than one guest reached" in why and hint.startswith("3000Mbit in and 3000Mbit out")


def test_admission_names_the_node_and_the_host():
    few = CLUSTER.replace("guarantee: 0.5", "guarantee: 0.02")

    def choose(text, known):
        roles = spec(text)
        promises = {node: guarantee(roles.roles[role]) for node, role in roles.names}
        return draft._choose(promises, [LAB], [Room.of(LAB)], {"lab": known})

    assert choose(few, None) == choose(CLUSTER, KNOWN) == LAB
    with pytest.raises(
        NoRoom, match=r"host .lab. is not for head-1: 0.02 cores cannot carry"
    ) as caught:
        choose(few, KNOWN)
    assert "raise cpu.guarantee to 0.026" in caught.value.hint


def test_the_ledger_keeps_it_with_the_host(tmp_path):
    assert calibration(json.loads(json.dumps(KNOWN.told()))) == KNOWN
    ledger = Ledger(tmp_path)
    ledger.put_host(LAB)
    assert ledger.calibration("lab") is None
    ledger.put_calibration("lab", replace(KNOWN, idle=11))
    ledger.put_calibration("lab", KNOWN)
    assert ledger.calibration("lab") == KNOWN
    ledger.drop_host("lab")
    assert ledger.calibration("lab") is None
    ledger.close()


def test_what_people_read():
    assert table(KNOWN)[0] == ("in", "1", "0.62", "0.13", "3000 Mbit/s")
    assert "not calibrated" in _cost(None)
    assert _cost(KNOWN).startswith("half a core carries 2357Mbit in or 2357Mbit out")


def test_the_pair_is_a_cluster_file():
    text = TEXT.format(cluster="calibration", host="lab", image="base", limit="4Gbit")
    assert [n for n, _ in spec(text).names] == ["wire-1", "wire-2"]
