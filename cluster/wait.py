"""From started to ready: tell nodes what they wait for, hear them until enough are healthy, or say which is not.

A node that fails (it says so, its machine stops, a stage's deadline passes, or what it says cannot be) is tried once
more on a new machine if its role has a `min`, and given up after that. Ends early when success has become
impossible: more are given up than a role can spare, or every node of a role failed in the same way. Never waits past
the deadline; it then says of each node the stage, what it waits for and from whom, its last words and the end of its
console.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import TimedOut, WorkFailed
from cluster.hosts.hypervisor import Hypervisor
from cluster.ledger import NodeRow
from contextualize.broker import Broker
from contextualize.coordinator import Coordinator
from contextualize.identity import Secret
from contextualize.message import Given, Report
from contextualize.render import TemplateError

if TYPE_CHECKING:
    from contextualize.doorway import Doorway

LOOK = 2.0
"""Seconds between looks at whether the machines still run."""
NEXT = {"defined": "booted", "booted": "contextualized", "contextualized": "healthy"}


@dataclass(frozen=True, slots=True)
class Watched:
    """A node that is listened to.

    base   digest of what its context is made of now
    await_ whether it has to become ready; others are only heard, because somebody waits for their facts
    """

    row: NodeRow
    domain: str
    channel: Path | None
    token: Secret
    base: str = ""
    await_: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """total   seconds for all
    stages  stage -> seconds that a node may take to reach it from the one before
    least   role -> how many of its nodes must be healthy
    spare   role -> how many of its nodes may be given up
    tries   machines that a node of a role with something to spare may have
    """

    total: float
    stages: Mapping[str, float] = field(default_factory=dict)
    spare: Mapping[str, int] = field(default_factory=dict)
    tries: int = 2


@dataclass(slots=True)
class _Way:
    """One node's way: since when it is at its stage, how many machines it had, its first failure."""

    watched: Watched
    row: NodeRow
    since: float
    tries: int = 1
    first: str = ""
    given_up: bool = False

    @property
    def done(self) -> bool:
        return self.given_up or self.row.stage == "healthy"


class Wait:
    """One wait for a cluster.

    tell     called with a node's row whenever it changes
    console  node -> the end of what its console said
    mend     gives a node another machine
    doorway  where nodes without a channel of their own come in
    ran      called with a report that says which hooks ran, once for each time they did
    """

    def __init__(
        self,
        nodes: Sequence[Watched],
        coordinator: Coordinator,
        hypervisor: Hypervisor,
        limits: Limits,
        tell: Callable[[NodeRow], None],
        console: Callable[[str], str],
        mend: Callable[[str], None],
        doorway: Doorway | None = None,
        ran: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self._doorway, self._ran = doorway, ran
        now = time.monotonic()
        self.coordinator, self.hypervisor, self.limits = coordinator, hypervisor, limits
        self._tell, self._console, self._mend = tell, console, mend
        self.ways = {w.row.name: _Way(w, w.row, now) for w in nodes}
        self.refused: dict[str, str] = {}

    def until_ready(self) -> dict[str, NodeRow]:
        """Each awaited node's row once enough are healthy. Raises WorkFailed or TimedOut."""
        started = time.monotonic()
        deadline, look = started + self.limits.total, started + LOOK
        channels = {n: (w.watched.channel, w.watched.token) for n, w in self.ways.items()}
        awaited = [w for w in self.ways.values() if w.watched.await_]
        with Broker(
            channels, self._hear, self._refuse, self.coordinator.opened, self._doorway
        ) as broker:
            while not all(w.done for w in awaited):
                now = time.monotonic()
                self._send(broker)
                self._settle()
                if now >= look:
                    look = now + LOOK
                    self._look()
                self._fail(now)
                if now >= deadline and not all(w.done for w in awaited):
                    self._late(awaited)
                    break
                if not all(w.done for w in awaited):
                    broker.step(max(0.0, min(look, deadline) - now))
        return {w.row.name: w.row for w in awaited}

    def _hear(self, said: Report | Given) -> None:
        self.coordinator.hear(said)
        way = self.ways[said.node]
        if isinstance(said, Given):
            return
        stage: str = said.stage
        if stage == "healthy":
            stage = "contextualized"  # it counts as healthy once it is settled
        old = way.row
        again = said.boot == old.boot and (
            old.stage == "healthy" or (stage == "booted" and old.stage != "defined")
        )
        if again or stage == "left" or (stage == "failed" and self.coordinator.retries(said.node)):
            return
        words = f"{said.message}\n{said.tail}".strip()
        if said.hooks and stage != old.stage:
            self._ran(said)
        self._at(way, replace(old, stage=stage, boot=said.boot, uptime=said.uptime, message=words))

    def _refuse(self, node: str, why: str) -> None:
        self.refused.setdefault(node, why)

    def _at(self, way: _Way, row: NodeRow) -> None:
        if row.stage != way.row.stage:
            way.since = time.monotonic()
            way.row = row
            self._tell(row)
        way.row = row

    def _send(self, broker: Broker) -> None:
        try:
            due = self.coordinator.due()
        except TemplateError as cause:
            raise WorkFailed(f"the context cannot be rendered: {cause}") from None
        for node, body in due:
            broker.send(node, body)

    def _settle(self) -> None:
        """Nodes that have everything become healthy in the ledger."""
        for name, way in self.ways.items():
            if way.done or not self.coordinator.settled(name):
                continue
            state = self.coordinator.state(name)
            assert state is not None
            self._at(way, replace(way.row, stage="healthy", boot=state.boot, uptime=state.uptime,
                                  message="", context=way.watched.base))  # fmt: skip

    # --- what goes wrong

    def _look(self) -> None:
        states = {s.name: s.state for s in self.hypervisor.observe()}
        for way in self.ways.values():
            state = states.get(way.watched.domain, "gone")
            if state not in ("running", "paused") and not way.done and way.row.stage != "failed":
                words = f"its machine is {state} after stage {way.row.stage}"
                console = self._console(way.row.name)
                self._at(way, replace(way.row, stage="failed", message=f"{words}\n{console}"))

    def _fail(self, now: float) -> None:
        for name, way in self.ways.items():
            if way.done:
                continue
            wrong = self.coordinator.wrong.get(name)
            if wrong and way.row.stage != "failed":
                self._at(way, replace(way.row, stage="failed", message=wrong))
            limit = self.limits.stages.get(NEXT.get(way.row.stage, ""))
            if limit is not None and way.watched.await_ and now - way.since > limit:
                words = f"not {NEXT[way.row.stage]} within {limit:g} s{self._waits_for(name)}"
                message = f"{words}\n{self._console(name)}"
                self._at(way, replace(way.row, stage="failed", message=message))
            if way.row.stage == "failed":
                self._failed(way)

    def _failed(self, way: _Way) -> None:
        name, role = way.row.name, way.row.role
        why = (way.row.message.partition("\n")[0] or "it does not say why").replace(name, "it")
        way.first = way.first or why
        alike = [w for w in self.ways.values() if w.row.role == role and w.watched.await_]
        if len(alike) > 1 and all(w.first == why for w in alike):
            every = f"every node of {role} failed in the same way: {why}"
            raise WorkFailed(every + _indent(way.row.message, 1), _HINT.format(node=name))
        lost = sum(w.given_up for w in alike)
        if lost >= self.limits.spare.get(role, 0) or not way.watched.await_:
            raise WorkFailed(
                f"{name} failed: {why}" + _indent(way.row.message, 1), _HINT.format(node=name)
            )
        if way.tries < self.limits.tries:
            way.tries += 1
            self.coordinator.forget(name)
            self._mend(name)
            self._at(way, NodeRow(way.row.cluster, name, role, way.row.address))
        else:
            way.given_up = True
            self.coordinator.lose(name)

    def _waits_for(self, node: str) -> str:
        if node not in self.coordinator.exchange.members:
            return ""
        what = self.coordinator.missing(node) or self.coordinator.late(node)
        return f"; it waits for {', '.join(what)}" if what else ""

    def _late(self, awaited: Sequence[_Way]) -> None:
        """The deadline passed: with enough healthy nodes the others are given up, else TimedOut."""
        late = [w for w in awaited if not w.done]
        lost: dict[str, int] = {}
        for way in (w for w in awaited if w.row.stage != "healthy"):
            lost[way.row.role] = lost.get(way.row.role, 0) + 1
        if all(count <= self.limits.spare.get(role, 0) for role, count in lost.items()):
            for way in late:
                way.given_up = True
                words = f"not ready within {self.limits.total:g} s{self._waits_for(way.row.name)}"
                self._at(way, replace(way.row, message=words))
            return
        lines = []
        for way in late:
            name, said = way.row.name, way.row.message.partition("\n")[0]
            why = f"; {self.refused[name]}" if name in self.refused else ""
            last = f"; it last said: {said}" if said else ""
            lines.append(
                f"{name} hung after stage {way.row.stage}{self._waits_for(name)}{why}{last}; "
                "the end of its console:" + _indent(self._console(name), 0)
            )
        raise TimedOut(
            f"{len(late)} of {len(awaited)} nodes are not ready after {self.limits.total:.0f} s\n"
            + "\n".join(lines),
            "phx up goes on waiting where this ended; 'deadline' in the cluster file sets the time",
        )


_HINT = "phx ssh {node} to look around; phx up runs its hooks again"


def _indent(text: str, skip: int) -> str:
    lines = text.splitlines()[skip:]
    return "".join(f"\n    | {line}" for line in lines[-20:])
