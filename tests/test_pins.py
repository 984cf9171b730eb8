"""CPUs of a host carry the guests that stay on them, or nobody is told that they do."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import NoRoom, explain
from cluster.hosts.host import cpu_list, cpu_text
from cluster.pins import Pinned, carried

cpus = st.frozensets(st.integers(0, 4), min_size=1, max_size=3)
guests = st.lists(st.builds(Pinned, st.integers(1, 20).map(lambda n: n * 50), cpus), max_size=5)


def test_what_fits_is_let_in_and_what_does_not_is_refused_with_the_cpus():
    carried("h", [Pinned(500, cpu_list("0")), Pinned(400, cpu_list("0"))], 900)
    with pytest.raises(NoRoom) as caught:
        carried(
            "h",
            [Pinned(900, cpu_list("0")), Pinned(500, cpu_list("1")), Pinned(500, cpu_list("0-1"))],
            900,
        )
    assert explain(caught.value) == (
        "error: guests that stay on CPUs 0-1 are guaranteed 1.9 cores together\n"
        "  hint: host 'h' can promise 1.8 there; pin to more CPUs, or lower cpu.guarantee"
    )


@given(guests)
def test_it_is_refused_exactly_when_some_cpus_are_asked_for_too_much(found):
    whole = range(5)
    sets = chain.from_iterable(combinations(whole, n) for n in range(1, 6))
    asked = lambda s: sum(g.cores for g in found if g.cpus <= set(s))  # noqa: E731
    fits = all(asked(s) <= len(s) * 900 for s in sets)
    try:
        carried("h", found, 900)
    except NoRoom:
        assert not fits
    else:
        assert fits


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_of_cpus_reads_back(found):
    assert cpu_list(cpu_text(found)) == found
