"""Nodes that are to go run their leave hooks first, so that others may finish what concerns them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from contextualize.broker import Broker
from contextualize.identity import Secret
from contextualize.message import Report, Said

if TYPE_CHECKING:
    from contextualize.doorway import Doorway

SILENCE = 15.0
"""Seconds after which a node that says nothing at all is taken for dead."""


def leave(
    channels: Mapping[str, tuple[Path | None, Secret]],
    limit: float,
    report: Callable[[str], None],
    doorway: Doorway | None = None,
) -> None:
    """Tell each node to leave, and wait until it has; at most `limit` seconds. Never fails: they go in any case.

    channels  node -> (socket of its channel, its token)
    """
    untold, heard, left = set[str](), set[str](), set[str]()

    def hear(said: Said) -> None:
        heard.add(said.node)
        if isinstance(said, Report) and said.stage == "left" and said.node not in left:
            left.add(said.node)
            report(f"{said.node} left" + (f": {said.message}" if said.message else ""))

    started = time.monotonic()
    with Broker(channels, hear, lambda *_: None, untold.add, doorway) as broker:
        while len(left) < len(channels):
            now = time.monotonic() - started
            if now > limit or (now > SILENCE and left == heard):
                break
            for node in sorted(untold - left):  # again on each new channel: agents leave once
                broker.send(node, {"leave": True})
            untold.clear()
            broker.step(0.5)
    for node in sorted(channels.keys() - left):
        report(f"{node} did not say that it left; it goes in any case")
