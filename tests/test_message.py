"""A line is a report of this node or is refused; nothing that any guest may send does anything else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contextualize.exchange import FACT_LIMIT
from contextualize.identity import Secret
from contextualize.message import (
    LIMIT,
    MESSAGE,
    MOST,
    PARTS,
    TAIL,
    BadMessage,
    Given,
    Report,
    Want,
    decode,
    encode,
    plain,
)

TOKEN = Secret(b"a token of the invented node")
BODY = {"node": "n-1", "boot": "b", "seq": 0, "stage": "booted", "uptime": 1.5}


def signed(text: str, token: Secret = TOKEN) -> bytes:
    mac = hmac.new(token.reveal(), text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode()


words = st.text(st.characters(exclude_categories=("Cc", "Cs"), include_characters="\t\n"))
reports = st.builds(
    Report,
    node=st.just("n-1"), boot=words, seq=st.integers(0, 1 << 31),
    stage=st.sampled_from(["booted", "contextualized", "healthy", "failed"]),
    uptime=st.floats(0, 1e9), message=words, tail=words,
    hooks=st.lists(st.tuples(words, st.none() | st.integers(-255, 255), st.floats(0, 1e6))).map(tuple),
)  # fmt: skip


@given(reports)
def test_what_was_sent_is_what_is_read(report):
    body = {name: getattr(report, name) for name in Report.__slots__}
    line = encode(body, TOKEN)
    assert line.endswith(b"\n") and line.count(b"\n") == 1, "one line, whatever is in it"
    assert decode(line, "n-1", TOKEN) == report


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=300))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b"\xff\xfe")
@example(b'{"body": null, "mac": null}')
@example(b'{"body": "{}", "mac": 7}')
@example(b'{"body": "{}", "mac": "\\ud800"}')
@example(b'{"body": "\\ud800", "mac": ""}')
@example(b'{"body": {}, "mac": ""}')
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b"9" * 5000)
def test_any_bytes_are_refused_and_nothing_else(line):
    with pytest.raises(BadMessage):
        decode(line, "n-1", TOKEN)


@given(json_values)
def test_any_json_is_refused(value):
    with pytest.raises(BadMessage):
        decode(json.dumps(value).encode(), "n-1", TOKEN)


@given(json_values)
@example({**BODY, "seq": float("inf")})
@example({**BODY, "seq": "9" * 5000})
@example({**BODY, "uptime": 10**400})
@example({**BODY, "uptime": "nan"})
@example({**BODY, "stage": []})
@example({**BODY, "stage": {}})
@example({**BODY, "stage": None})
@example({**BODY, "hooks": 7})
@example({**BODY, "hooks": [[1]]})
@example({**BODY, "hooks": [["p", float("inf"), 1]]})
@example({**BODY, "node": "\ud800"})
@example("[" * 50_000)
@example(None)
def test_a_body_that_proves_itself_is_still_a_report_or_refused(value):
    """A guest's root has its token: what it says may be anything."""
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        found = decode(signed(text), "n-1", TOKEN)
    except BadMessage:
        return
    assert isinstance(found, Report) and found.node == "n-1"


WHO = {key: BODY[key] for key in ("node", "boot", "seq", "uptime")}
SAID = {
    Report: BODY,
    Given: {**WHO, "fact": "key", "value": "AP8="},
    Want: {**WHO, "want": ["ab" * 32]},
}


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, body in SAID.items() for key in body if key != "stage"]
)
@settings(max_examples=30)
@given(json_values)
def test_any_value_of_any_key(kind, key, value):
    try:
        found = decode(signed(json.dumps({**SAID[kind], key: value})), "n-1", TOKEN)
    except BadMessage:
        return
    assert isinstance(found, kind) and found.node == "n-1" and 0 <= found.seq <= MOST
    match found:
        case Report():
            assert found.stage in ("booted", "contextualized", "healthy", "failed")
        case Given():
            assert found.value is None or len(found.value) <= FACT_LIMIT
        case Want():
            assert all(len(part) == 64 for part in found.parts) and len(found.parts) <= PARTS


@given(st.binary(max_size=5000))
def test_a_fact_comes_as_it_was_given(value):
    body = {**WHO, "fact": "key", "value": base64.b64encode(value).decode()}
    assert decode(encode(body, TOKEN), "n-1", TOKEN).value == value


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("SQLite makes NULL of it, which the column refuses", {**BODY, "uptime": "nan"}),
        ("no time", {**BODY, "uptime": "inf"}),
        ("a lone surrogate cannot be written as UTF-8", {**BODY, "boot": "\ud800"}),
        ("nor printed", {**BODY, "message": "\ud800"}),
        ("nor in a hook's path", {**BODY, "hooks": [["\ud800", 0, 1.0]]}),
    ],
)  # fmt: skip
def test_what_is_taken_can_be_kept_and_printed(why, body):
    try:
        found = decode(signed(json.dumps(body)), "n-1", TOKEN)
    except BadMessage:
        return
    assert math.isfinite(found.uptime), why
    assert f"{found.boot}{found.message}{found.tail}{found.hooks}".encode(), why
    json.dumps([h[0] for h in found.hooks], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("why", "line", "said"),
    [
        ("not JSON", b"hello", "n-1 sent something that is not a report"),
        ("no mac", json.dumps({"body": "{}"}).encode(), "n-1 sent something that is not a report"),
        ("another's token", encode(BODY, Secret(b"other")), "n-1 sent a report with a wrong token"),
        (
            "a changed body",
            encode(BODY, TOKEN).replace(b"booted", b"failed"),
            "n-1 sent a report with a wrong token",
        ),
        (
            "an empty mac",
            json.dumps({"body": "{}", "mac": ""}).encode(),
            "n-1 sent a report with a wrong token",
        ),
        (
            "too little",
            encode({"node": "n-1"}, TOKEN),
            "n-1 sent a report without what it must say",
        ),
        ("another's name", encode({**BODY, "node": "n-2"}, TOKEN), "n-1 calls itself 'n-2'"),
        (
            "a long name is cut",
            encode({**BODY, "node": "x" * 999}, TOKEN),
            f"n-1 calls itself '{'x' * 64}'",
        ),
        (
            "a stage that is none",
            encode({**BODY, "stage": "happy"}, TOKEN),
            "n-1 reports an unknown stage 'happy'",
        ),
        (
            "too long",
            b"x" * (LIMIT + 1),
            f"n-1 sent a line of {LIMIT + 1} bytes, {LIMIT} are allowed",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) and len(x) < 25 else "",
)
def test_refused_in_words_without_the_token(why, line, said):
    with pytest.raises(BadMessage) as caught:
        decode(line, "n-1", TOKEN)
    assert str(caught.value) == said, why
    assert TOKEN.reveal().decode() not in str(caught.value)


def test_the_largest_line_is_taken():
    room = LIMIT - len(encode({**BODY, "tail": ""}, TOKEN)) + 1
    line = encode({**BODY, "tail": "x" * room}, TOKEN).rstrip(b"\n")
    assert len(line) == LIMIT
    assert decode(line, "n-1", TOKEN).tail == "x" * TAIL


def test_the_start_of_a_message_and_the_end_of_a_tail_are_kept():
    text = "first" + "x" * 9000 + "last"
    found = decode(encode({**BODY, "message": text, "tail": text}, TOKEN), "n-1", TOKEN)
    assert (len(found.message), len(found.tail)) == (MESSAGE, TAIL)
    assert found.message.startswith("first") and found.tail.endswith("last")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": -1}, {"seq": MOST + 1}, {"seq": 1.0}, {"seq": True}, {"seq": "1"}, {"uptime": -1}, {"uptime": True},
        {"uptime": float("nan")}, {"uptime": float("inf")}, {"uptime": 10**400}, {"uptime": "1"}, {"node": 1},
        {"stage": None}, {"boot": ["b"]}, {"message": 7}, {"tail": None}, {"hooks": [["p", 0.5, 1]]},
        {"hooks": [["p", 0, float("nan")]]}, {"hooks": [[None, 0, 1]]}, {"hooks": {"a": 1}},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_not_of_its_kind_is_refused(wrong):
    with pytest.raises(BadMessage, match="n-1 sent a report without what it must say"):
        decode(signed(json.dumps({**BODY, **wrong})), "n-1", TOKEN)


def test_the_largest_number_is_taken():
    assert decode(encode({**BODY, "seq": MOST}, TOKEN), "n-1", TOKEN).seq == MOST


@pytest.mark.parametrize(
    ("why", "text", "shown"),
    [
        ("colours", "\x1b[1;31mred\x1b[0m and \x9b32mgreen", "red and green"),
        ("the cursor, the screen", "\x1b[2J\x1b[Hhome\x1b[?25l\x1b[1A", "home"),
        ("a title", "\x1b]0;owned\x07text", "text"),
        ("the clipboard, ended the long way", "\x1b]52;c;b3duZWQ=\x1b\\text", "text"),
        ("a terminal's own strings", "\x1bP$q\x1b\\\x1b_x\x1b\\text", "text"),
        ("a reset, a character set", "\x1bc\x1b(B\x1b#8text", "text"),
        ("one that never ends", "\x1b]0;title", "0;title"),
        ("one that is cut off", "text\x1b", "text\ufffd"),
        (
            "bells and their like",
            "a\x07b\x08c\x00d\x7fe\x85f",
            "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf",
        ),
        ("half a character", "a\ud800b", "a\ufffdb"),
        ("lines as others end them", "a\r\nb\rc", "a\nbc"),
        ("what is good stays", "a\tb\näöü \U0001f600 [0m", "a\tb\näöü \U0001f600 [0m"),
    ],
)
def test_plain(why, text, shown):
    assert plain(text) == shown, why


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_drives_a_terminal_is_left(text):
    found = plain(text)
    found.encode()
    assert not [c for c in found if c not in "\t\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert plain(found) == found


@pytest.mark.parametrize("piece", ["\x1b]", "\x1b[", "\x1b[0;", "\x1b ", "\x9b", "\x1bP0"])
def test_plain_takes_time_in_proportion(piece):
    started = time.process_time()
    plain(piece * (LIMIT // len(piece)))
    assert time.process_time() - started < 2


def test_what_a_node_calls_itself_does_not_drive_the_terminal_either():
    for wrong in ({"node": "\x1b[2Jn-1"}, {"stage": "\x1b]0;x\x07\x07"}):
        try:
            decode(signed(json.dumps({**BODY, **wrong})), "n-1", TOKEN)
        except BadMessage as refused:
            assert "\x1b" not in str(refused) and "\x07" not in str(refused)
