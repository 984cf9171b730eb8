"""One line from an agent turned into a Report, or refused: wrong size, wrong form, wrong token.

A line is {"body": TEXT, "mac": HEX}: mac is HMAC-SHA256 of the body under the node's token, and the body is JSON with
node, boot, seq, stage, uptime and what the stage has to say. Nothing of a line is believed before its mac holds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from contextualize.identity import Secret

Stage = Literal["booted", "contextualized", "healthy", "failed"]
LIMIT = 256 * 1024
"""Bytes that one line may have."""
MESSAGE, TAIL = 500, 8000
"""Characters kept of a report's message, from its start, and of its tail, from its end."""
MOST = 2**31
"""The largest number that a report may be the one of, and a hook may end with."""

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


def decode(line: bytes, node: str, token: Secret) -> Report:
    """The report on `line`; BadMessage unless it is whole, ours, and from `node`."""
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
        hooks = tuple(
            (plain(path), None if status is None else _whole(status, -MOST), _seconds(took))
            for path, status, took in told.get("hooks", [])
        )
        report = Report(
            plain(told["node"]), plain(told["boot"]), _whole(told["seq"]),
            cast(Stage, plain(told["stage"])), _seconds(told["uptime"]),
            plain(told.get("message", ""))[:MESSAGE], plain(told.get("tail", ""))[-TAIL:], hooks,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise BadMessage(f"{node} sent a report without what it must say") from None
    if report.node != node:
        raise BadMessage(f"{node} calls itself '{report.node[:64]}'")
    if report.stage not in get_args(Stage):
        raise BadMessage(f"{node} reports an unknown stage '{report.stage[:64]}'")
    return report


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


def encode(body: dict[str, object], token: Secret) -> bytes:
    """The line an agent sends for `body`; what contextualize/agent.py does by itself in the guest."""
    text = json.dumps(body)
    mac = hmac.new(token.reveal(), text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode() + b"\n"
