"""One line from an agent turned into a Report, a Given, a Want or a Request, or refused: wrong size, form or token.

A line is {"body": TEXT, "mac": HEX}: mac is HMAC-SHA256 of the body under the node's token, and the body is JSON with
node, boot, seq, uptime, and either a stage and what it has to say, or a fact, or the parts that it wants, or what it
asks for of its guarantee. Nothing of a
line is believed before its mac holds. What our side tells an agent has the same form; its mac covers a prefix too, so
that neither side's line can be played back to it. A part is told as {"part": TEXT}: its digest was in a signed line.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from contextualize.exchange import FACT_LIMIT
from contextualize.identity import Secret

Stage = Literal["booted", "contextualized", "healthy", "failed", "left"]
LIMIT = FACT_LIMIT * 4 // 3 + (64 << 10)
"""Bytes that one line may have: the largest fact in base64, and what is around it."""
MESSAGE, TAIL = 500, 8000
"""Characters kept of a report's message, from its start, and of its tail, from its end."""
PARTS = 1000
"""Parts that an agent may want at once."""
WORDS = 32
"""KEY=VALUE that one request may have, of 64 letters each."""
MOST = 2**31
"""The largest number that a report may be the one of, and a hook may end with."""

ORDER = b"philoxenia to agent\n"
"""What the mac of our side's lines covers before the body."""
ASK = b'{"ask": "all"}\n'
"""What our side says to hear everything from the start."""


class BadMessage(ValueError):
    """A line that no agent of this node would send. The text never holds the token."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node said, its texts made plain. `uptime` is seconds since its kernel started; `boot` names that boot."""

    node: str
    boot: str
    seq: int
    stage: Stage
    uptime: float
    message: str = ""
    tail: str = ""
    hooks: tuple[tuple[str, int | None, float], ...] = ()
    context: str = ""
    """Digest of the context that is in force there; "" before one is."""


@dataclass(frozen=True, slots=True)
class Given:
    """A fact that a node gave; `value` is None for a readiness."""

    node: str
    boot: str
    seq: int
    uptime: float
    fact: str
    value: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Want:
    """Digests of parts of the document that the node was told and does not have."""

    node: str
    boot: str
    seq: int
    uptime: float
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What a node asks for of its guarantee: KEY=VALUE. Without words it has heard the answer to that request.

    name  of the request: an answer is to this one
    """

    node: str
    boot: str
    seq: int
    uptime: float
    name: str
    words: tuple[str, ...]


Said = Report | Given | Want | Request


def decode(line: bytes, node: str, token: Secret) -> Said:
    """What `line` says; BadMessage unless it is whole, ours, and from `node`."""
    if len(line) > LIMIT:
        raise BadMessage(f"{node} sent a line of {len(line)} bytes, {LIMIT} are allowed")
    try:
        outer = json.loads(line)
        body, mac = outer["body"], outer["mac"]
        right = hmac.new(token.reveal(), body.encode(), hashlib.sha256).hexdigest()
        proved = hmac.compare_digest(right.encode(), mac.encode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadMessage(f"{node} sent something that is not a report") from None
    if not proved:
        raise BadMessage(f"{node} sent a report with a wrong token")
    try:
        told = json.loads(body)
        if "fact" in told:
            return _given(told, node)
        if "want" in told:
            return _want(told, node)
        if "request" in told:
            return _request(told, node)
        hooks = tuple(
            (plain(path), None if status is None else _whole(status, -MOST), _seconds(took))
            for path, status, took in told.get("hooks", [])
        )
        report = Report(
            plain(told["node"]), plain(told["boot"]), _whole(told["seq"]),
            cast(Stage, plain(told["stage"])), _seconds(told["uptime"]),
            plain(told.get("message", ""))[:MESSAGE], plain(told.get("tail", ""))[-TAIL:], hooks,
            plain(told.get("context", ""))[:64],
        )  # fmt: skip
    except BadMessage:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise BadMessage(f"{node} sent a report without what it must say") from None
    if report.node != node:
        raise BadMessage(f"{node} calls itself '{report.node[:64]}'")
    if report.stage not in get_args(Stage):
        raise BadMessage(f"{node} reports an unknown stage '{report.stage[:64]}'")
    return report


def _given(told: dict[str, Any], node: str) -> Given:
    """ValueError and its like when something in it is not what it must be."""
    value = told["value"]
    if value is not None:
        value = base64.b64decode(value, validate=True)
        if len(value) > FACT_LIMIT:
            raise BadMessage(f"{node} gave a fact of {len(value)} bytes, {FACT_LIMIT} are allowed")
    name = told["fact"]
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise BadMessage(f"{node} gave a fact with no name that a fact may have")
    if told["node"] != node:
        raise BadMessage(f"{node} calls itself '{plain(told['node'])[:64]}'")
    return Given(
        node, plain(told["boot"]), _whole(told["seq"]), _seconds(told["uptime"]), name, value
    )


def _want(told: dict[str, Any], node: str) -> Want:
    parts = told["want"]
    if told["node"] != node:
        raise BadMessage(f"{node} calls itself '{plain(told['node'])[:64]}'")
    if len(parts) > PARTS or not all(re.fullmatch("[0-9a-f]{64}", p) for p in parts):
        raise BadMessage(f"{node} wants what no part is called")
    return Want(
        node, plain(told["boot"]), _whole(told["seq"]), _seconds(told["uptime"]), tuple(parts)
    )


def _request(told: dict[str, Any], node: str) -> Request:
    """As `_given`."""
    name, words = told["request"], told["words"]
    if told["node"] != node:
        raise BadMessage(f"{node} calls itself '{plain(told['node'])[:64]}'")
    if not re.fullmatch("[0-9a-f]{16}", name):
        raise BadMessage(f"{node} sent a request with no name that a request may have")
    if len(words) > WORDS or not all(re.fullmatch("[!-~ ]{1,64}", word) for word in words):
        raise BadMessage(f"{node} asks for what nobody can read")
    return Request(
        node, plain(told["boot"]), _whole(told["seq"]), _seconds(told["uptime"]), name, tuple(words)
    )


_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS and their like: titles, clipboard
    r"|\x1b[ -/]*[0-~]"
)
_UNFIT = re.compile(r"[^\t\n -~\xa0-\ud7ff\ue000-\U0010ffff]")


def plain(text: str) -> str:
    """What a guest wrote, unable to drive the terminal that it is shown on: without escape sequences (ECMA-48) and
    carriage returns; other control characters but newline and tab, and halves of a character, are replaced.

    >>> plain("\x1b[31mred\x1b[0m\\r\\n\x07")
    'red\\n\ufffd'
    """
    return _UNFIT.sub("\ufffd", _ESCAPE.sub("", text).replace("\r", ""))


def _whole(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError("not a whole number of that size")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError("not a number of seconds")
    return float(value)


def order(body: dict[str, object], token: Secret) -> bytes:
    """The line that tells an agent {"context": ...} or {"leave": true}."""
    text = json.dumps(body)
    mac = hmac.new(token.reveal(), ORDER + text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode() + b"\n"


def supply(text: str) -> bytes:
    """The line that gives an agent a part; the same for every node."""
    return json.dumps({"part": text}).encode() + b"\n"


def encode(body: dict[str, object], token: Secret) -> bytes:
    """The line an agent sends for `body`; what contextualize/agent.py does by itself in the guest."""
    text = json.dumps(body)
    mac = hmac.new(token.reveal(), text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode() + b"\n"
