"""One line from an agent turned into a Report, or refused: wrong size, wrong form, wrong token.

A line is {"body": TEXT, "mac": HEX}: mac is HMAC-SHA256 of the body under the node's token, and the body is JSON with
node, boot, seq, stage, uptime and what the stage has to say. Nothing of a line is believed before its mac holds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Literal, cast, get_args

from contextualize.identity import Secret

Stage = Literal["booted", "contextualized", "healthy", "failed"]
LIMIT = 256 * 1024
"""Bytes that one line may have."""

ASK = b'{"ask": "all"}\n'
"""What our side says to hear everything from the start."""


class BadMessage(ValueError):
    """A line that no agent of this node would send. The text never holds the token."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node said. `uptime` is seconds since its kernel started; `boot` names that boot."""

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
            (str(p), None if s is None else int(s), float(t)) for p, s, t in told.get("hooks", [])
        )
        report = Report(
            str(told["node"]), str(told["boot"]), int(told["seq"]), cast(Stage, told["stage"]),
            float(told["uptime"]), str(told.get("message", "")), str(told.get("tail", "")), hooks,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadMessage(f"{node} sent a report without what it must say") from None
    if report.node != node:
        raise BadMessage(f"{node} calls itself '{report.node[:64]}'")
    if report.stage not in get_args(Stage):
        raise BadMessage(f"{node} reports an unknown stage '{report.stage[:64]}'")
    return report


def encode(body: dict[str, object], token: Secret) -> bytes:
    """The line an agent sends for `body`; what contextualize/agent.py does by itself in the guest."""
    text = json.dumps(body)
    mac = hmac.new(token.reveal(), text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode() + b"\n"
