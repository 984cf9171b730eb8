"""Levels, moments and claims from what a load saw: invented streams whose answer is known, and recorded ones."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cluster.figures import claims
from cluster.figures.claims import Claim
from cluster.figures.recording import Change, Phase, Recording, Spell, Stream
from cluster.figures.series import histogram, level, reached, throughput

RECORDED = Path(__file__).parent / "cases" / "figures"


def events(*rates, start=0.0):
    """Evenly spaced: rates are (seconds, events a second)."""
    found, at = [], start
    for seconds, rate in rates:
        found += [(at + n / rate, 1.0) for n in range(round(seconds * rate))]
        at += seconds
    return found


def test_throughput_counts_every_event_once():
    found = events((3, 40), (2, 10))
    series = throughput(found, 0, 5, 0.5)
    assert sum(series.values) * 0.5 == len(found) and series.times[0] == 0.25
    assert series.values[1] == pytest.approx(40) and series.values[-2] == pytest.approx(10)


@given(some.lists(some.floats(0, 20), max_size=50), some.floats(0.1, 3))
def test_spans_hold_all_that_is_in_them(times, span):
    series = throughput([(at, 1.0) for at in times], 0, 10, span)
    end = len(series.values) * span
    inside = sum(1 for at in times if int(at / span) < len(series.values))
    assert end <= 10 + 1e-6 and sum(series.values) * span == pytest.approx(inside)


def test_a_level_leaves_out_the_time_of_settling():
    assert level(events((2, 10), (4, 50)), 1, 6, settle=1) == pytest.approx(50)
    with pytest.raises(ValueError, match="before it has settled"):
        level([], 1, 2, settle=1)


@pytest.mark.parametrize("late", [0.0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize(("old", "new"), [(20, 100), (100, 20), (50, 75)])
def test_a_step_is_found_when_it_came(old, new, late):
    found = events((10 + late, old), (10 - late, new))
    said = reached(found, 10, 20)
    # A window that still holds some of the old level may be within a fifth of the new one already.
    assert said is not None and max(0.5, late - 0.4) <= said <= late + 0.6


def test_what_settles_on_nothing_reaches_nothing():
    restless = events(*[(0.5, rate) for rate in (10, 90, 8, 120, 12, 70, 200, 4) * 3])
    assert reached(restless, 3, 10) is None


def test_a_short_time_has_no_level():
    with pytest.raises(ValueError, match="so short"):
        reached(events((3, 10)), 2, 2.8)


@given(some.floats(0.0, 3.0), some.floats(10, 60), some.floats(1.6, 4.0))
def test_a_later_step_is_never_called_sooner(late, old, factor):
    first = reached(events((10 + late, old), (12 - late, old * factor)), 10, 22)
    second = reached(events((11 + late, old), (11 - late, old * factor)), 10, 22)
    assert first is not None and second is not None and second >= first


@given(some.lists(some.floats(0, 300), max_size=40), some.integers(1, 20))
def test_a_histogram_has_everything(values, bins):
    edges, counts = histogram(values, bins, 200.0)
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1 and edges[-1] == 200.0


# Claims.


def recording(streams, seconds, phases=(), changes=(), cpu=None, cores=1.0):
    told = {name: Stream(tuple(at for at, _ in found), tuple((at, 1000.0) for at, _ in found), 0)
            for name, found in streams.items()}  # fmt: skip
    spells = {
        name: tuple(Spell(n / 2, n / 2 + 0.5, c) for n, c in enumerate(values))
        for name, values in (cpu or {}).items()
    }
    return Recording(
        "invented", "qemu", cores, seconds, tuple(phases), tuple(changes), told, spells
    )


PHASES = [Phase(5 * n, 5 * n + 5, f"{n}x") for n in range(4)]


def isolated(kept, cores=0.3):
    rates = [(5, 100.0), *((5, 100.0 * k) for k in kept)]
    return recording(
        {"VO2": events(*rates)}, 20, PHASES, cpu={"VO1": [cores] * 40, "VO2": [0.6] * 40}
    )


@pytest.mark.parametrize(
    ("why", "without", "with_", "cores", "fails"),
    [
        ("all is well", (0.8, 0.6, 0.5), (1.0, 0.95, 0.97), 0.31, ()),
        (
            "without guarantees nothing happened",
            (1.0, 1.0, 0.9),
            (1.0, 1.0, 1.0),
            0.3,
            ("suffers",),
        ),
        ("one load was too much", (0.8, 0.6, 0.5), (1.0, 0.8, 1.0), 0.3, ("keeps its throughput",)),
        ("VO1 passed its limit", (0.8, 0.6, 0.5), (1.0, 1.0, 1.0), 0.4, ("VO1 stays within",)),
    ],
)
def test_isolation(why, without, with_, cores, fails):
    found = claims.isolation(isolated(without), isolated(with_, cores), {"VO1": 0.3, "VO2": 0.6})
    failed = [c for c in found if not c.holds]
    assert len(failed) == len(fails) and all(
        word in c.says for word, c in zip(fails, failed, strict=True)
    ), why


def test_a_phase_without_an_answer_is_a_failed_claim_not_a_fault():
    quiet = isolated((0.5, 0.5, 0.01))
    found = claims.isolation(quiet, quiet, {})
    assert [c.holds for c in found] == [True, False]


def changed(*levels, what=1.0):
    """A recording in which VO2's level changes every 8 s: by its promise, at once."""
    rates = [(8.0, rate) for rate in levels]
    changes = [Change(8.0 * n, 0.1, "a change") for n in range(1, len(levels))]
    cpu = list(itertools.chain.from_iterable([rate / 100] * 16 for rate in levels))
    return recording({"VO2": events(*rates)}, 8.0 * len(levels), changes=changes, cpu={"VO2": cpu})


def test_renegotiating_cpu_is_measured_against_each_limit():
    found = claims.renegotiating_cpu(changed(30, 60, 20), (0.3, 0.6, 0.2))
    assert all(c.holds for c in found) and len(found) == 4
    off = claims.renegotiating_cpu(changed(30, 60, 20), (0.3, 0.45, 0.2))
    assert [c.holds for c in off] == [True, True, False, True]


def test_renegotiating_bandwidth_is_measured_in_bits():
    # 1000 bytes each: 8000 bits.
    found = claims.renegotiating_bandwidth(changed(125, 250), (1.0, 2.0))
    assert all(c.holds for c in found), found
    assert [c.holds for c in claims.renegotiating_bandwidth(changed(125, 250), (1.0, 3.0))] == [
        True,
        True,
        False,
    ]


def test_a_level_that_comes_late_is_told():
    slow = recording({"VO2": events((12, 20), (12, 80))}, 24, changes=[Change(8.0, 0.1, "a change")],
                     cpu={"VO2": [0.2] * 24 + [0.8] * 24})  # fmt: skip
    soon = claims.renegotiating_cpu(slow, (0.2, 0.8))[0]
    assert soon.measured == pytest.approx(4.4, abs=0.2) and not soon.holds


@pytest.mark.parametrize(
    ("must", "measured", "holds", "eased"),
    [("at least", 0.9, True, True), ("at least", 0.85, False, True), ("at least", 0.5, False, False),
     ("at most", 0.9, True, True), ("at most", 0.95, False, True), ("at most", None, False, False)],
)  # fmt: skip
def test_a_bound_holds_or_holds_when_it_is_eased(must, measured, holds, eased):
    claim = Claim("f", "says", measured, must, 0.9)
    assert (claim.holds, claim.held(0.1)) == (holds, eased)


def test_cpu_is_told_of_whole_looks_only():
    found = recording({"VO2": []}, 10, cpu={"VO2": [0.1, 0.5, 0.5, 0.9]})
    assert found.used("VO2", 0.4, 1.6) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="nobody looked"):
        found.used("VO2", 1.1, 1.4)


# What was recorded on real guests, by `make figures`.


def recorded(name):
    return Recording.from_json((RECORDED / f"{name}.json").read_text())


def test_a_recording_reads_back():
    found = recorded("renegotiating-cpu")
    assert Recording.from_json(found.to_json()) == found
    assert json.loads(found.to_json())["changes"][0]["says"] == "cpu 0.3 to 0.6 cores"


def test_recorded_isolation():
    found = claims.isolation(
        recorded("isolation-without"), recorded("isolation-with"), {"VO1": 0.3, "VO2": 0.6}
    )
    assert all(c.holds for c in found), found


def test_recorded_renegotiation():
    found = recorded("renegotiating-cpu")
    assert all(c.holds for c in claims.renegotiating_cpu(found, (0.3, 0.6, 0.2, 0.5)))
    # The same guests, had nobody changed anything when it was said.
    late = replace(found, changes=tuple(replace(c, at=c.at - 3.0) for c in found.changes))
    assert not claims.renegotiating_cpu(late, (0.3, 0.6, 0.2, 0.5))[0].holds
