"""Every error has its exit status and is told once, with its causes and what to do; the tree is as drawn."""

from __future__ import annotations

import re

import pytest

from builder import errors
from builder.errors import (
    CommandFailed,
    EnvironmentLacks,
    InputError,
    NoRoom,
    PhiloxeniaError,
    Problem,
    TimedOut,
    WorkFailed,
    close,
    explain,
    shown,
)


def chained(error, *causes):
    """The error with its chain, as `raise ... from` would make it."""
    at = error
    for cause in causes:
        at.__cause__ = cause
        at = cause
    return error


STATUS = {
    PhiloxeniaError: 1,
    InputError: 2,
    EnvironmentLacks: 3,
    NoRoom: 4,
    WorkFailed: 1,
    CommandFailed: 1,
    TimedOut: 1,
}


@pytest.mark.parametrize(("kind", "status"), STATUS.items())
def test_exit_status(kind, status):
    assert kind.exit_code == status


def test_the_tree_is_as_drawn():
    """Of the module's docstring: names, who is whose child, and each exit status."""
    drawn = {}
    above = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)([A-Z]\w+)(?: +exit (\d))?", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        above[depth:] = [found[2]]
        drawn[found[2]] = (above[depth - 1] if depth else "Exception", found[3])
    real = {}
    kinds = [PhiloxeniaError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__ == errors.__name__:
            real[kind.__name__] = kind
            kinds += kind.__subclasses__()
    assert set(drawn) == set(real) == {k.__name__ for k in STATUS}
    for name, (parent, status) in drawn.items():
        assert real[name].__base__.__name__ == parent, name
        assert status is None or real[name].exit_code == int(status), name
        assert real[name].__doc__, name


TABLE = [
    ("a bare message", WorkFailed("it broke"), "error: it broke"),
    ("and what to do", EnvironmentLacks("no mke2fs", "apt-get install e2fsprogs"),
     "error: no mke2fs\n  hint: apt-get install e2fsprogs"),
    ("the chain, once each",
     chained(WorkFailed("step 4 failed"), WorkFailed("no layer"), OSError(28, "No space left on device")),
     "error: step 4 failed\n  because: no layer\n  because: No space left on device"),
    ("a file that the system named", chained(WorkFailed("x"), OSError(2, "No such file or directory", "/a/b")),
     "error: x\n  because: No such file or directory: /a/b"),
    ("the hint stands last, after the causes", chained(NoRoom("no host", "roomiest is h"), ValueError("because so")),
     "error: no host\n  because: because so\n  hint: roomiest is h"),
    ("a cause's hint when the error has none", chained(WorkFailed("a"), WorkFailed("b", "do this")),
     "error: a\n  because: b\n  hint: do this"),
    ("the error's own hint is over its causes'", chained(WorkFailed("a", "do that"), WorkFailed("b", "do this")),
     "error: a\n  because: b\n  hint: do that"),
    ("a cause without words is named by its kind", chained(WorkFailed("a"), KeyError()),
     "error: a\n  because: KeyError"),
    ("a program that ended badly", CommandFailed(["mke2fs", "-q"], 28, "\nlast words\n"),
     "error: exit 28: mke2fs: last words"),
    ("by a signal", CommandFailed(["qemu"], -9, ""), "error: signal 9: qemu"),
    ("one problem is not counted", InputError(Problem("f:1: a", "is wrong", "right it")),
     "error: f:1: a: is wrong\n  hint: right it"),
    ("several are, and nothing was done", InputError([Problem("f:1", "one"), Problem("", "two", "do")]),
     "error: f:1: one\nerror: two\n  hint: do\n2 errors, nothing was done"),
    ("a problem with a cause", chained(InputError(Problem("f", "cannot be read")), OSError(13, "Permission denied")),
     "error: f: cannot be read\n  because: Permission denied"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "error", "text"), TABLE, ids=[t[0] for t in TABLE])
def test_explained(why, error, text):
    assert explain(error) == text, why


def test_a_cause_that_was_set_aside_is_not_told():
    with pytest.raises(WorkFailed) as caught:
        try:
            raise ValueError("within")
        except ValueError:
            raise WorkFailed("a") from None
    assert explain(caught.value) == "error: a"


@pytest.mark.parametrize(
    ("why", "word", "known", "hint"),
    [
        ("one letter off", "verison", ["version", "name"], "did you mean 'version'?"),
        ("near to none: all, in order", "zzz", ["b", "a"], "known: a, b"),
        ("nothing known", "zzz", [], ""),
        (
            "one of many is the nearest",
            "worker-1",
            ["worker-10", "worker-2", "worker-1x"],
            "did you mean 'worker-1x'?",
        ),
    ],
)
def test_the_nearest_word(why, word, known, hint):
    assert close(word, known) == hint, why
    assert close(word, iter(known)) == hint, "any iterable, read once"


def test_the_error_keeps_its_parts():
    error = CommandFailed(("a", "b"), 3, "tail", "hint")
    assert (error.argv, error.status, error.tail, error.hint) == (("a", "b"), 3, "tail", "hint")
    assert isinstance(error, WorkFailed) and str(error) == "exit 3: a: tail"
    assert InputError(iter([Problem("a", "b")])).problems == (Problem("a", "b"),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (1.5, "1.5"),
        ("a'b", '"a\'b"'),
        ([1], "[1]"),
        ("x" * 99, "'" + "x" * 56 + "..."),
    ],
)
def test_a_value_as_its_writer_knows_it(value, text):
    assert shown(value) == text
