"""A secret is read from where it lies, is masked however its bytes arrive, and is found wherever a step left it."""

from __future__ import annotations

import itertools
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import secrets, trees
from builder.errors import CommandFailed, InputError, TimedOut, explain
from builder.run import run
from builder.secrets import Mask, Secret

KEY = b"-----BEGIN KEY-----\nAAAAB3Nza\n  C1yc2EAA\n-----END KEY-----\n"


def masked(blocks, *values):
    mask = Mask(map(Secret, values))
    return b"".join([*(mask.feed(b) for b in blocks), mask.feed(b"", last=True)])


def cut(text, places):
    edges = [0, *sorted({p % (len(text) + 1) for p in places}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_however_a_text_is_cut_it_is_masked_the_same(places, twice):
    text = b"<hunter22> hunter2 hunter222 " + KEY.replace(b"\n", b"\r\n") + b"hunt" * twice
    expected = b"<***> hunter2 ***2 ***\r\n***\r\n  ***\r\n***\r\n" + b"hunt" * twice
    assert masked(cut(text, places), b"hunter22\n", KEY) == expected


@given(
    st.lists(st.binary(min_size=4, max_size=6), min_size=1, max_size=3),
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"\n", None]), max_size=30),
    st.lists(st.integers(0, 99), max_size=6),
)
def test_no_secret_comes_through(values, pieces, places):
    """Among pieces that look like beginnings of it."""
    text = b"".join(values[n % len(values)] if p is None else p for n, p in enumerate(pieces))
    shown = masked(cut(text, places), *values)
    words = [v.strip() for v in values if len(v.strip().splitlines()) == 1]
    assert not any(word in shown.replace(b"***", b"\0") for word in words if len(word) >= 4)


def test_what_a_secret_is_not_is_shown():
    assert masked([b"{ ", b"} x"], b"{\n  token-of-json\n}") == b"{ } x", (
        "short lines are no secrets"
    )
    assert masked([b"pin 42, 1042"], b"42") == b"pin ***, 10***", (
        "unless there is nothing else to it"
    )
    assert masked([b"any"]) == b"any"


def test_nothing_of_it_is_printed():
    assert f"{Secret(b'hunter2')} {Secret(b'hunter2')!r} {[Secret(b'hunter2')]}" == "*** *** [***]"


def test_given_as_a_file_or_in_the_environment(tmp_path):
    (tmp_path / "key").write_bytes(KEY)
    environment = {"TOKEN": "hunter2", "OTHER": "x"}
    found = secrets.read([f"key=file:{tmp_path}/key", "token=env:TOKEN"], environment)
    assert {n: s.reveal() for n, s in found.items()} == {"key": KEY, "token": b"hunter2"}
    assert environment == {"OTHER": "x"}, "no program that is started later has it"


WRONG = [
    ("its value on the command line", "token=hunter2",
     "error: --secret: a secret is given as NAME=file:PATH or NAME=env:VARIABLE\n"
     "  hint: not by its value: everybody on the machine can read a command line"),
    ("no name", "=env:TOKEN", "error: --secret: a secret is given as NAME=file:PATH or NAME=env:VARIABLE\n"
     "  hint: not by its value: everybody on the machine can read a command line"),
    ("a variable that is not there", "token=env:TOKNE",
     "error: --secret token: no variable 'TOKNE' in the environment"),
    ("a file that is not there", "token=file:TMP/no",
     "error: --secret token: TMP/no cannot be read: No such file or directory"),
    ("a folder", "token=file:TMP", "error: --secret token: TMP cannot be read: Is a directory"),
    ("an empty file", "token=file:TMP/empty", "error: --secret token: TMP/empty is empty"),
    ("too much", "token=file:TMP/large", "error: --secret token: TMP/large is larger than 64K"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text", "said"), WRONG, ids=[w[0] for w in WRONG])
def test_what_is_no_secret_is_refused(why, text, said, tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "large").write_bytes(bytes([97]) * (secrets.LARGEST + 1))
    with pytest.raises(InputError) as caught:
        secrets.read([text.replace("TMP", str(tmp_path))], {"TOKEN": "hunter2"})
    assert explain(caught.value).replace(str(tmp_path), "TMP") == said, why
    assert "hunter2" not in explain(caught.value)


def test_all_that_is_wrong_is_told_at_once_and_nothing_taken():
    environment = {"A": "hunter2"}
    with pytest.raises(InputError) as caught:
        secrets.read(["a=env:A", "a=env:A", "b=env:B"], environment)
    assert [p.what for p in caught.value.problems] == [
        "given twice",
        "no variable 'B' in the environment",
    ]
    assert environment == {"A": "hunter2"}


PYTHON = "import sys, time; {}; sys.stdout.flush(); {}"


@pytest.mark.process
def test_a_program_that_tells_a_secret_is_not_heard(tmp_path):
    """In what it returns, in its log, line by line, in the error of its failure and of its lateness."""
    log, lines = tmp_path / "log", []
    slow = "[(sys.stdout.write(c), sys.stdout.flush()) for c in 'is hunter2, no line end']"
    argv = [
        sys.executable,
        "-c",
        PYTHON.format(slow, "print('\\nhunter2', file=sys.stderr); sys.exit(3)"),
    ]
    with pytest.raises(CommandFailed) as caught:
        run(argv, timeout=20, log=log, on_line=lines.append, mask=[Secret(b"hunter2\n")])
    assert caught.value.tail == "***"
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in log.read_text() and log.read_text().count("***") == 2
    assert lines == ["", "***"]
    late = [sys.executable, "-c", PYTHON.format("print('is hunter2 ')", "time.sleep(30)")]
    with pytest.raises(TimedOut, match=r"it last said: is \*\*\*$"):
        run(late, timeout=0.5, mask=[Secret(b"hunter2")])


def test_where_a_tree_holds_it(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x" * (trees.BLOCK - 3) + b"hunter2 and more")
    (tmp_path / "a/is-hunter2").mkdir()
    (tmp_path / "a/link").symlink_to("/nowhere/hunter2")
    (tmp_path / "a/hunter").write_bytes(b"hunter1")
    (tmp_path / "named").write_bytes(b"")
    # Not every filesystem has them.
    monkeypatch.setattr(os, "listxattr", lambda p, **_: ["user.x"] if p.endswith(b"/named") else [])
    monkeypatch.setattr(os, "getxattr", lambda *_, **more: b"is hunter2")
    os.mkfifo(tmp_path / "pipe")
    found = trees.holding(str(tmp_path), [b"hunter2"])
    assert found == ["/a/b/file", "/a/is-hunter2", "/a/link", "/named"]
    assert trees.holding(str(tmp_path / "a"), [b"hunter3", b"hunter1"]) == ["/hunter"]


@pytest.mark.process
def test_where_a_tree_holds_it_as_a_program(tmp_path):
    """As in a user namespace."""
    (tmp_path / "file").write_bytes(b"a hunter2")
    argv = [sys.executable, "-I", "-S", trees.__file__, "holding", str(tmp_path)]
    assert (
        run(argv, timeout=20, stdin=b'["' + b"hunter2".hex().encode() + b'"]').text == '["/file"]\n'
    )
