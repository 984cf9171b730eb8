"""Many builds at once: parents' layers first, what failed stops its own children only, and no bug is swallowed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import batch
from builder.batch import Job, Result
from builder.errors import WorkFailed
from tests.invented import IMAGE

FAMILY = {
    "base": [], "web": ["base"], "cgi": ["base", "web"], "db": ["base"], "lone": ["elsewhere"],
    "leaf": ["base", "absent"],
}  # fmt: skip


def test_the_order_is_parents_first_and_after_is_the_nearest_one_asked_for():
    assert batch.in_order(FAMILY) == (
        Job("base"), Job("db", "base"), Job("lone"), Job("web", "base"), Job("cgi", "web"),
        Job("leaf", "base"),
    )  # fmt: skip


def run(jobs, count, broken=(), layered_first=()):
    """Results by name, and the order in which the jobs began."""
    began = []

    def make(name, layered):
        began.append(name)
        if name in layered_first:
            layered()
        if name in broken:
            raise WorkFailed("it broke")
        return IMAGE, True

    told = []
    results = batch.build(jobs, count, make, told.append)
    assert sorted(r.name for r in told) == sorted(r.name for r in results)
    return {r.name: (r.what, r.because) for r in results}, began


def test_all_are_built():
    results, began = run(batch.in_order(FAMILY), 1)
    assert set(results.values()) == {("built", "")} and list(results) == began


def test_what_fails_stops_its_own_children_only_and_is_named_to_all_of_them():
    results, began = run(batch.in_order(FAMILY), 2, broken={"web"})
    assert results == {
        "base": ("built", ""), "db": ("built", ""), "lone": ("built", ""), "leaf": ("built", ""),
        "web": ("failed", ""), "cgi": ("not built", "web"),
    }  # fmt: skip
    assert "cgi" not in began
    results, _ = run(batch.in_order(FAMILY), 2, broken={"base"})
    assert results["cgi"] == ("not built", "base") and results["lone"] == ("built", "")


def test_a_child_starts_when_the_layers_are_there_even_if_the_image_fails():
    results, began = run(batch.in_order(FAMILY), 1, broken={"web"}, layered_first={"web"})
    assert results["web"] == ("failed", "") and results["cgi"] == ("built", "")
    assert began.index("web") < began.index("cgi")


def test_no_more_than_asked_for_run_at_once_and_they_do_run_at_once():
    both = threading.Barrier(2, timeout=10)
    now, most = [], []

    def make(name, layered):
        now.append(name)
        most.append(len(now))
        both.wait()
        now.remove(name)
        return IMAGE, False

    results = batch.build([Job(n) for n in "abcd"], 2, make, lambda _: None)
    assert [r.what for r in results] == ["up to date"] * 4 and max(most) == 2


def test_a_full_disk_is_a_failure_of_that_job(monkeypatch):
    def make(name, layered):
        raise OSError(28, "No space left on device")

    [result] = batch.build([Job("a")], 1, make, lambda _: None)
    assert result.what == "failed" and isinstance(result.error, WorkFailed)


def test_a_bug_is_raised_and_ends_the_others(monkeypatch):
    stopped = threading.Event()
    monkeypatch.setattr(batch, "stop_all", stopped.set)

    def make(name, layered):
        if name == "bug":
            raise ZeroDivisionError
        stopped.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(ZeroDivisionError):
        batch.build([Job("other"), Job("bug")], 2, make, lambda _: None)
    assert stopped.is_set()


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=3)),
    st.sets(st.sampled_from("abcdefgh")), st.randoms(),
)  # fmt: skip
def test_every_job_ends_and_none_begins_before_what_it_stands_on(family, broken, chance):
    course = batch.Course(batch.in_order({n: [a for a in f if a < n] for n, f in family.items()}))
    after = {job.name: job.after for job in course.jobs}
    while len(course.ended) < len(course.jobs):
        ready = course.ready()
        assert all(not after[n] or after[n] in course.layered for n in ready)
        course.running |= set(ready)
        assert course.running, "somebody can always go on"
        name = chance.choice(sorted(course.running))
        image = None if name in broken else IMAGE
        course.end(Result(name, "built" if image else "failed", image=image))
    assert [r.name for r in course.results()] == [job.name for job in course.jobs]
    for r in course.results():
        assert (r.what == "not built") == bool(r.because)
        assert not r.because or r.because in broken
