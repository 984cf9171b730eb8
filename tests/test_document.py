"""YAML keeps its lines, and whatever is wrong with it becomes problems of a place, never a traceback."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from builder.document import Document, Written, by_line, check, parse, read
from builder.errors import InputError, Problem, explain
from builder.language.sections import Recipe


class Inner(Written):
    """One item of the invented document below."""

    name: str = Field(description="what it is called")
    size: int = Field(1, description="how big", ge=1, le=9)


class Outer(Written):
    """An invented document."""

    title: str = Field(description="its title")
    from_: str | None = Field(None, alias="from", description="where it comes from")
    items: tuple[Inner, ...] = Field((), strict=False, description="its items")
    by_name: dict[str, Inner] = Field(default_factory=dict, description="more of them")
    either: int | bool = Field(1, description="one or the other")


TEXT = """\
# a comment
title: a

items:
  - name: one
    size: 2
  - {name: two}
by_name:
  three:
    name: three
"""


def told(text):
    with pytest.raises(InputError) as caught:
        check(parse(text, "F"), Outer)
    return explain(caught.value)


def test_every_place_has_its_line():
    lines = parse(TEXT, "F").lines
    assert lines[("title",)] == 2 and lines[("items",)] == 4
    assert lines[("items", 0)] == lines[("items", 0, "name")] == 5
    assert lines[("items", 0, "size")] == 6
    assert lines[("items", 1)] == lines[("items", 1, "name")] == 7
    assert lines[("by_name", "three")] == 9 and lines[("by_name", "three", "name")] == 10


def test_a_place_that_is_not_there_is_told_at_the_nearest_above():
    document = parse(TEXT, "F")
    assert document.where(("items", 1, "size")) == "F:7: items[1].size"
    assert document.where(("items", 9)) == "F:4: items[9]"
    assert document.where(("nothing",)) == "F:1: nothing"
    assert document.where() == "F:1"


def test_read_back_as_values():
    found = check(parse(TEXT, "F"), Outer)
    assert [i.name for i in found.items] == ["one", "two"] and found.by_name["three"].size == 1
    with pytest.raises(ValueError, match="frozen"):
        found.title = "b"


@pytest.mark.parametrize(
    ("why", "text", "said"),
    [
        ("an alias is known by its written name", "title: a\nfrom_: b\nform: c\n",
         "error: F:3: form: unknown key 'form'\n  hint: did you mean 'from'?"),
        ("through a list", "title: a\nitems: [{name: a, sise: 1}]\n",
         "error: F:2: items[0].sise: unknown key 'sise'\n  hint: did you mean 'size'?"),
        ("through a mapping of names", "title: a\nby_name: {x: {nam: a}}\n",
         "error: F:2: by_name.x: 'name' is missing\n  hint: what it is called\n"
         "error: F:2: by_name.x.nam: unknown key 'nam'\n  hint: did you mean 'name'?\n2 errors, nothing was done"),
        ("a bound", "title: a\nitems:\n- {name: a, size: 10}\n",
         "error: F:3: items[0].size: 10 is more than 9\n  hint: how big"),
        ("the other bound", "title: a\nitems:\n- {name: a, size: 0}\n",
         "error: F:3: items[0].size: 0 is less than 1\n  hint: how big"),
        ("a union is one error", "title: a\neither: x\n",
         "error: F:2: either: 'x' is not a whole number or true or false\n  hint: one or the other"),
        ("a long value is cut", f"title: [{'x' * 100}]\n",
         f"error: F:1: title: ['{'x' * 55}... is not text\n  hint: its title"),
        ("nothing at all", "", "error: F: is empty\n  hint: it may have the keys title, from, items, by_name, either"),
        ("only a comment", "# nothing\n",
         "error: F: is empty\n  hint: it may have the keys title, from, items, by_name, either"),
        ("a word", "hello", "error: F: must be a mapping of keys to values\n"
         "  hint: it may have the keys title, from, items, by_name, either"),
        ("two documents in one file", "title: a\n---\ntitle: b\n", "error: F:2: not YAML: but found another document"),
        ("a character that may not stand there", "title: a\nfrom: b\x00\n",
         "error: F:2: not YAML: character U+0000 may not stand in it"),
        ("a Python object", "title: !!python/object/apply:os.getcwd []\n",
         "error: F:1: title: [] is not text\n  hint: its title"),
        ("a key that is a mapping", "{a: b}: c\ntitle: a\n", "error: F:1: a key must be plain text"),
        ("lines of all that is written twice", "title: a\ntitle: b\nitems: [{name: a, name: b}]\n",
         "error: F:2: title: written twice\n  hint: keep one of the two\n"
         "error: F:3: items[0].name: written twice\n  hint: keep one of the two\n2 errors, nothing was done"),
    ],
)  # fmt: skip
def test_problems_in_words(why, text, said):
    assert told(text) == said, why


def test_a_merge_key_is_no_magic():
    assert "unknown key '<<'" in told("title: a\n<<: {from: b}\n")


def test_anchors_are_values():
    found = check(parse("title: &t a\nfrom: *t\n", "F"), Outer)
    assert found.from_ == "a"


def test_octal_is_not_guessed_at():
    data = parse("a: 010\nb: 0755\nc: 0\nd: -07\ne: 10\nf: '0755'\n").data
    assert data == {"a": "010", "b": "0755", "c": 0, "d": "-07", "e": 10, "f": "0755"}


@given(st.text(max_size=60))
@example("a: " + "[" * 400)
@example("a: " + "[" * 400 + "]" * 400)
@example("a: &a [*a]")
@example("a: &a {b: *a}")
@example("2024-99-99: 2024-99-99")
@example("a: !!int x")
@example("a: !!timestamp x")
@example("a: !!binary x")
@example("a: !!float x")
@example("a: !!bool x")
@example("!!set {a, b}")
@example("\ufeffa: b")
@example("\x85")
def test_any_text_is_a_document_or_an_input_error(text):
    try:
        check(parse(text, "F"), Recipe)
    except InputError as error:
        assert all(p.where for p in error.problems)
        assert "\x00" not in explain(error)


yamlish = st.recursive(
    st.sampled_from(["a", "1", "1.5", "yes", "null", "''", "2024-01-01", "0755", "~", "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda xs: f"[{', '.join(xs)}]")
        | st.dictionaries(
            st.sampled_from(
                ["name", "files", "run", "set", "x", "parameters", "kernel", "path", "default"]
            ),
            inner,
            max_size=3,
        ).map(lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}")
    ),
    max_leaves=12,
)


@given(yamlish, st.sampled_from(sorted({f.alias or n for n, f in Recipe.model_fields.items()})))
def test_any_value_of_any_key_of_a_recipe_is_told_once_and_in_our_words(value, key):
    try:
        check(parse(f"{key}: {value}", "F"), Recipe)
    except InputError as error:
        assert len(set(error.problems)) == len(error.problems)
        text = explain(error)
        for word in (
            "pydantic",
            "Input should",
            "instance of",
            "NoneType",
            "[key]",
            "function-",
            "Value error",
        ):
            assert word not in text
        assert "None" not in text and "True" not in text.replace("'True'", "")


@pytest.mark.parametrize(
    ("why", "make", "said"),
    [
        ("no file", lambda p: None, "error: F: there is no such file"),
        ("a folder", lambda p: p.mkdir(), "error: F: cannot be read: Is a directory"),
        ("not UTF-8", lambda p: p.write_bytes(b"a: caf\xe9\n"), "error: F: is not UTF-8 (byte 6)"),
        (
            "a file as a folder",
            lambda p: p.symlink_to("/etc/hostname/x"),
            "error: F: cannot be read: Not a directory",
        ),
        (
            "a link to itself",
            lambda p: p.symlink_to(p),
            "error: F: cannot be read: Too many levels of symbolic links",
        ),
    ],
)
def test_files_that_cannot_be_read(why, make, said, tmp_path):
    path = tmp_path / "f"
    make(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert explain(caught.value).replace(str(path), "F") == said, why


def test_problems_by_file_then_line_each_once():
    a, b, c = Problem("F:10: x", "a"), Problem("F:9: y", "b"), Problem("G:1", "c")
    whole = Problem("--set x", "d")
    assert by_line([a, c, whole, b, a]) == [b, a, c, whole]


def test_a_document_may_be_made_by_hand():
    assert Document("F", {"title": "a"}).problem(("title",), "is wrong").where == "F:1: title"
