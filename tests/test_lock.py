"""A lock reads back as it was written, answers exactly the questions of its recipe, and tells what changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError, explain
from builder.language import recipe
from builder.packages import lock
from builder.plan import Facts
from builder.steps import Locked, LockedWheel
from tests.test_recipe import ROOT, library

packages = st.builds(
    Locked, st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,9}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9.+~:-]{1,9}", fullmatch=True), st.sampled_from(["amd64", "all"]),
    st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(1, 1 << 40),
)  # fmt: skip
wheels = st.builds(
    LockedWheel, st.from_regex(r"[a-z0-9]([a-z0-9-]{0,7}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9.!+_-]{1,9}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,9}\.whl", fullmatch=True),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)  # fmt: skip


@st.composite
def _facts(draw):
    parts = draw(st.lists(st.lists(packages, max_size=3).map(tuple), max_size=3).map(tuple))
    found = Facts(draw(st.integers(0, 1 << 40)), parts)
    if not parts or draw(st.booleans()):
        return found
    some = st.lists(wheels, max_size=2).map(tuple)
    return replace(found, wheels=tuple(draw(some) for _ in parts), installer=draw(wheels))


facts = _facts()


@given(facts)
def test_reads_back(found):
    assert lock.from_json(lock.to_json(found, "k"), "F") == (found, "k")


def one(name, version="1"):
    return Locked(name, version, "amd64", "0" * 64, 7)


def test_golden(golden):
    """People read its differences: one package a line."""
    found = Facts(1_750_000_000, ((one("dash"), one("kmod", "2:3-4")), (), (one("curl"),)))
    golden("recipe.lock", lock.to_json(found, "ab" * 32))
    tool, pip = (
        LockedWheel(n, "1.0", f"{n}-1.0-py3-none-any.whl", "0" * 64) for n in ("tool", "pip")
    )
    found = replace(found, wheels=((tool,), (), (pip, tool)), installer=pip)
    golden("recipe-pip.lock", lock.to_json(found, "ab" * 32))


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("empty", ""), ("not JSON", "{"), ("a list", "[]"), ("no key", '{"version": 1, "epoch": 1, "parts": []}'),
        ("another version", '{"version": 2, "key": "k", "epoch": 1, "parts": []}'),
        ("a package without all of it", '{"version": 1, "key": "k", "epoch": 1, "parts": [[["a"]]]}'),
        ("an epoch in words", '{"version": 1, "key": "k", "epoch": "now", "parts": []}'),
        ("an epoch without end", '{"version": 1, "key": "k", "epoch": Infinity, "parts": []}'),
        ("a package more than whole",
         '{"version": 1, "key": "k", "epoch": 1, "parts": [[["dash", "1", "all", "' + "0" * 64 + '", 7, 8]]]}'),
        ("lists without end", "[" * 100_000),
        ("wheels of other parts",
         '{"version": 1, "key": "k", "epoch": 1, "parts": [[]], "wheels": [[], []], "installer": '
         '["pip", "1", "pip-1-py3-none-any.whl", "' + "0" * 64 + '"]}'),
        ("wheels and no pip", '{"version": 1, "key": "k", "epoch": 1, "parts": [[]], "wheels": [[]]}'),
    ],
)  # fmt: skip
def test_what_is_no_lock_is_refused(why, text):
    with pytest.raises(InputError) as caught:
        lock.from_json(text, "F/recipe.lock")
    said = explain(caught.value)
    assert said.startswith("error: F/recipe.lock: is not a lock ("), why
    assert said.endswith("\n  hint: phx lock RECIPE --update writes it anew")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "dash; reboot"), (0, "$(reboot)"), (0, "dash\n"), (0, "-o"), (0, "Dash"), (0, "x"), (0, ""), (0, 7),
        (1, "1 || reboot"), (1, "1/../2"), (1, ""), (1, None), (2, "i386"), (2, ""), (2, ["all"]),
        (3, "0" * 63), (3, "0" * 65), (3, "A" * 64), (3, None), (4, 0), (4, -1), (4, 7.0), (4, True), (4, "7"),
    ],
)  # fmt: skip
def test_what_is_no_package_is_refused_before_it_reaches_a_shell(place, value):
    row = ["dash", "1", "amd64", "0" * 64, 7]
    row[place] = value
    text = json.dumps({"version": 1, "key": "k", "epoch": 1, "parts": [[row]]})
    field = ("name", "version", "architecture", "sha256", "size")[place]
    with pytest.raises(InputError, match=f"is not a lock .* is no package's {field}"):
        lock.from_json(text, "F")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "../pip"), (0, "Pip"), (0, "-r"), (0, ""), (1, "1;x"), (1, ""), (2, "a.tar.gz"), (2, "../a.whl"),
        (2, "a b.whl"), (3, "0" * 63), (3, None),
    ],
)  # fmt: skip
def test_what_is_no_wheel_is_refused_before_it_reaches_a_shell(place, value):
    row = ["tool", "1", "tool-1-py3-none-any.whl", "0" * 64]
    wrong = [*row[:place], value, *row[place + 1 :]]
    told = {
        "version": 1,
        "key": "k",
        "epoch": 1,
        "parts": [[]],
        "wheels": [[wrong]],
        "installer": row,
    }
    field = ("name", "version", "file", "sha256")[place]
    with pytest.raises(InputError, match=f"is not a lock .* is no wheel's {field}"):
        lock.from_json(json.dumps(told), "F")


def test_the_key_covers_the_bytes_of_a_recipes_wheels_and_no_order(tmp_path):
    text = BASE + "pip: [b, a==1, {wheel: own-1-py3-none-any.whl}]\n"
    (tmp_path / "base").mkdir()
    file = tmp_path / "base/own-1-py3-none-any.whl"
    file.write_bytes(b"own")
    first = key(tmp_path, text)
    assert key(tmp_path, text.replace("b, a==1", "a==1, b")) == first
    assert key(tmp_path, text.replace("a==1", "a==2")) != first
    file.write_bytes(b"other")
    assert key(tmp_path, text) != first


@pytest.mark.parametrize(
    ("why", "old", "new", "same"),
    [
        ("where it is", "v.invalid/", "w.invalid/", False), ("its suite", "suite: s", "suite: t", False),
        ("its key", "BLOCK-----'", "BLOCK-----x'", False), ("what it is called", "name: v", "name: w", True),
        ("that the image keeps it", "suite: s", "suite: s, keep: true", True),
        ("that it is a snapshot", "suite: s", "suite: s, snapshot: true", False),
    ],
)  # fmt: skip
def test_what_the_key_covers_of_an_archive(why, old, new, same, tmp_path):
    text = f"{BASE}sources: [{SOURCE}]\n"
    assert (key(tmp_path, text) == key(tmp_path, text.replace(old, new))) == same, why


def key(tmp_path, text):
    library(tmp_path, {"base/recipe.yaml": text})
    return lock.key(recipe.load(tmp_path / "base", tmp_path, {}))


SOURCE = "{name: v, uri: 'http://v.invalid/', suite: s, key_text: '-----BEGIN PGP PUBLIC KEY BLOCK-----'}"
BASE = ROOT + "packages: [dash, kmod]\nfiles: [{path: /a, content: a}]\n"


@pytest.mark.parametrize(
    ("why", "old", "new", "same"),
    [
        ("the order of packages", "[dash, kmod]", "[kmod, dash]", True),
        ("a file", "content: a", "content: b", True),
        ("the size", "1G", "2G", True),
        ("a package more", "[dash, kmod]", "[dash, kmod, curl]", False),
        ("a version", "[dash, kmod]", "[dash, kmod=1]", False),
        ("the kernel", "cloud-amd64", "amd64", False),
        ("a Python package", "files:", "pip: [tool]\nfiles:", False),
        ("an archive", "files:", f"sources: [{SOURCE}]\nfiles:", False),
        (
            "an archive that is not there by its condition",
            "files:",
            f"sources: [{SOURCE[:-1]}, when: 'false'}}]\nfiles:",
            True,
        ),
    ],
)
def test_the_key_is_of_what_is_asked(why, old, new, same, tmp_path):
    assert BASE.count(old) == 1
    assert (key(tmp_path, BASE) == key(tmp_path, BASE.replace(old, new))) == same, why


def test_each_variant_has_a_lock_of_its_own(tmp_path):
    more = "matrix: {small: {}}\n"
    library(tmp_path, {"base/recipe.yaml": BASE + more})
    folder = tmp_path / "base"
    plain, small = (recipe.load(folder, tmp_path, {}, variant=v) for v in ("", "small"))
    assert lock.beside(folder, plain) == folder / "recipe.lock"
    assert lock.beside(folder, small) == folder / "recipe.small.lock"
    assert lock.key(plain) == lock.key(small)
    assert lock.found(folder, small) is None
    (folder / "recipe.lock").write_text("{}")
    assert lock.found(folder, small) == lock.found(folder, plain) == folder / "recipe.lock"
    (folder / "recipe.small.lock").write_text("{}")
    assert lock.found(folder, small) == folder / "recipe.small.lock"


def test_differences_by_name():
    old = Facts(1, ((one("a"), one("b"), one("c")), ()))
    new = Facts(2, ((one("a"), one("c", "2")), (one("d"),)))
    assert lock.difference(old, new) == [("b", "1", "-"), ("c", "1", "2"), ("d", "-", "1")]
    assert lock.difference(None, Facts(1, ((one("a"),),))) == [("a", "-", "1")]
    assert lock.difference(new, replace(new, epoch=9)) == []
    tool = LockedWheel("tool", "1", "tool-1-py3-none-any.whl", "0" * 64)
    with_tool = replace(new, wheels=((), (tool,)), installer=tool)
    assert lock.difference(new, with_tool) == [("pip tool", "-", "1")]
