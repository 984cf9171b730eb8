"""From started to ready: hear every node's reports until all are healthy, or say which is not, where it hung, and why.

Ends early when success has become impossible: a node reports a failure, or its machine stops. Never waits past
the deadline, and says then what each unready node last said and the end of its console.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import TimedOut, WorkFailed
from cluster.hosts.hypervisor import Hypervisor
from cluster.ledger import NodeRow
from contextualize.broker import Broker
from contextualize.identity import Secret
from contextualize.message import Report

LOOK = 2.0
"""Seconds between looks at whether the machines still run."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A node to wait for."""

    row: NodeRow
    domain: str
    channel: Path
    token: Secret


def until_ready(
    nodes: Sequence[Watched],
    hypervisor: Hypervisor,
    timeout: float,
    tell: Callable[[NodeRow], None],
    console: Callable[[str], str],
) -> dict[str, NodeRow]:
    """Each node's row once all are healthy.

    timeout  seconds for all of them
    tell     called with a node's row whenever it changes
    console  node -> the end of what its console said
    Raises WorkFailed (a node failed or stopped) or TimedOut.
    """
    rows = {w.row.name: w.row for w in nodes}
    refused: dict[str, str] = {}
    deadline, look = time.monotonic() + timeout, time.monotonic() + LOOK

    def hear(report: Report) -> None:
        old = rows[report.node]
        said = f"{report.message}\n{report.tail}".strip()
        rows[report.node] = replace(
            old, stage=report.stage, boot=report.boot, uptime=report.uptime, message=said
        )
        tell(rows[report.node])

    def refuse(node: str, why: str) -> None:
        refused.setdefault(node, why)

    channels: Mapping[str, tuple[Path, Secret]] = {w.row.name: (w.channel, w.token) for w in nodes}
    with Broker(channels, hear, refuse) as broker:
        while any(r.stage != "healthy" for r in rows.values()):
            now = time.monotonic()
            failed = next((r for r in rows.values() if r.stage == "failed"), None)
            if failed:
                why = failed.message.partition("\n")[0] or "it does not say why"
                raise WorkFailed(
                    f"{failed.name} failed: {why}" + _indent(failed.message, 1),
                    f"phx ssh {failed.name} to look around; phx ssh {failed.name} -- systemctl restart "
                    "philoxenia-agent "
                    "runs its hooks again, and phx up then goes on",
                )
            if now >= look:
                look = now + LOOK
                _all_run(nodes, rows, hypervisor, console)
            if now >= deadline:
                raise _late(rows, refused, timeout, console)
            broker.step(min(look, deadline) - now)
    return rows


def _all_run(
    nodes: Sequence[Watched], rows: Mapping[str, NodeRow], hypervisor: Hypervisor,
    console: Callable[[str], str],
) -> None:  # fmt: skip
    states = {s.name: s.state for s in hypervisor.observe()}
    for w in nodes:
        state = states.get(w.domain, "gone")
        if state not in ("running", "paused"):
            raise WorkFailed(
                f"{w.row.name} stopped (its machine is {state}) after stage {rows[w.row.name].stage}"
                + _indent(console(w.row.name), 0)
            )


def _late(
    rows: Mapping[str, NodeRow],
    refused: Mapping[str, str],
    timeout: float,
    console: Callable[[str], str],
) -> TimedOut:
    late = [r for r in rows.values() if r.stage != "healthy"]
    lines = []
    for r in late:
        why = f"; {refused[r.name]}" if r.name in refused else ""
        lines.append(
            f"{r.name} hung after stage {r.stage}{why}; the end of its console:"
            + _indent(console(r.name), 0)
        )
    return TimedOut(
        f"{len(late)} of {len(rows)} nodes are not ready after {timeout:.0f} s\n"
        + "\n".join(lines),
        "phx up goes on waiting where this ended; 'deadline' in the cluster file sets the time",
    )


def _indent(text: str, skip: int) -> str:
    lines = text.splitlines()[skip:]
    return "".join(f"\n    | {line}" for line in lines[-20:])
