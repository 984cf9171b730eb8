"""Two looks at a host become rates; a guest that was started again counts from nothing; who is starved is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cluster.metering.usage import COUNTERS, Sample, Usage, Use, grown, uses
from tests.invented import GUARANTEE, drawn, launched

MARK = launched(drawn())[0].mark
THEN = Usage("demo.head-1", MARK, 3, 10**9, 512 << 20, 1 << 30, 1000, 2000, 3000, 4000, 10**8)


def used(seconds, now, then=THEN):
    before, after = Sample(100.0, "lab", (then,)), Sample(100.0 + seconds, "lab", (now,))
    return list(uses(before, after))


def test_rates_are_in_cores_bits_and_bytes_a_second():
    now = replace(
        THEN, cpu=2 * 10**9, received=2000, sent=4000, read=3600, written=4000, waited=3 * 10**8
    )
    (use,) = used(2.0, now)
    assert (use.node, use.host, use.given) == ("head-1", "lab", MARK.guarantee)
    assert use.cpu == pytest.approx(0.5) and use.waited == pytest.approx(0.1)
    assert (use.received, use.sent) == (4000, 8000), "bit/s"
    assert (use.read, use.written) == (300, 0), "bytes/s"
    assert (use.memory, use.memory_limit) == (512 << 20, 1 << 30)


def test_what_the_driver_does_not_tell_stays_unknown():
    (use,) = used(1.0, replace(THEN, read=None, waited=None))
    assert use.read is None and use.waited is None and use.written == 0


def test_only_nodes_of_both_looks_have_rates():
    other = replace(THEN, name="demo.worker-1")
    assert list(uses(Sample(0, "lab", (THEN,)), Sample(1, "lab", (other,)))) == []


def test_two_looks_at_once_have_no_rate():
    with pytest.raises(ValueError, match="not later"):
        used(0, THEN)


@pytest.mark.parametrize(
    ("why", "cpu", "waited", "starved"),
    [
        ("it wanted more and got half", 0.25, 0.5, True),
        ("it got its guarantee and wanted more", 0.5, 2.0, False),
        ("nine tenths are near enough", 0.46, 0.5, False),
        ("it wanted less than its guarantee, whatever it waited", 0.2, 0.2, False),
        ("it is idle", 0.01, 0.0, False),
        ("nobody tells whether it waited", 0.1, None, False),
    ],
)
def test_starved(why, cpu, waited, starved):
    use = Use("c", "n", "r", "h", GUARANTEE, cpu, waited, 0, 0, None, None, None, None)
    assert GUARANTEE.cpu_guarantee == 500
    assert use.starved is starved, why


counts = some.fixed_dictionaries(
    {name: some.none() | some.integers(0, 10**15) for name in COUNTERS}
)


@given(counts, counts, some.booleans())
def test_growth_is_never_negative_and_never_more_than_the_counter(then, now, again):
    before = replace(THEN, **{**then, "cpu": then["cpu"] or 0})
    after = replace(THEN, **{**now, "cpu": now["cpu"] or 0}, run=4 if again else 3)
    for name, more in grown(before, after).items():
        value = getattr(after, name)
        assert (more is None) == (value is None)
        assert more is None or 0 <= more <= value
    if again:
        assert (
            grown(before, after) == grown(None, after) == {n: getattr(after, n) for n in COUNTERS}
        )
