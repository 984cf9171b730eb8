"""From started to ready: tell nodes what they wait for, hear them until enough are healthy, or say which is not.

A node that fails (it says so, its machine stops, a stage's deadline passes, or what it says cannot be) is tried once
more on a new machine if its role has a `min`, and given up after that. Ends early when success has become
impossible: more are given up than a role can spare, or every node of a role failed in the same way. Never waits past
the deadline; it then says of each node the stage, what it waits for and from whom, its last words and the end of its
console.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import TimedOut, WorkFailed
from cluster.hosts.port import Hypervisor
from cluster.ledger import NodeRow
from contextualize.broker import Broker
from contextualize.coordinator import Coordinator, context_of
from contextualize.identity import Secret
from contextualize.message import Report, Said
from contextualize.template import TemplateError

if TYPE_CHECKING:
    from contextualize.doorway import Doorway

LOOK = 2.0
"""Seconds between looks at whether the machines still run."""
ANSWER = 5.0
"""Seconds that nodes which were ready have to repeat their facts, before others are told without them."""
NEXT = {"defined": "booted", "booted": "contextualized", "contextualized": "healthy"}


@dataclass(frozen=True, slots=True)
class Watched:
    """A node that is listened to.

    base   digest of what its context is made of now
    await_ whether it has to become ready; others are only heard, because somebody waits for their facts
    silent whether nobody in it reports: it is seen from outside, and told nothing
    """

    row: NodeRow
    domain: str
    channel: Path | None
    token: Secret
    base: str = ""
    await_: bool = True
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """total   seconds for all
    stages  stage -> seconds that a node may take to reach it from the one before
    spare   role -> how many of its nodes may be given up
    counts  role -> how many nodes it has; a role not named: as many as are listened to
    tries   machines that a node of a role with something to spare may have
    away    seconds that a machine may be off: libvirt makes a Xen guest that reboots anew
    """

    total: float
    stages: Mapping[str, float] = field(default_factory=dict)
    spare: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    tries: int = 2
    away: float = 0.0


@dataclass(slots=True)
class _Way:
    """One node's way: since when it is at its stage, how many machines it had, its first failure."""

    watched: Watched
    row: NodeRow
    since: float
    awaited: bool
    tries: int = 1
    first: str = ""
    given_up: bool = False
    settled: bool = False
    """Whether it was healthy under the newest context, in this wait."""
    off: float | None = None
    """Since when its machine is not there, as far as was seen."""

    @property
    def done(self) -> bool:
        return self.given_up or self.row.stage == "healthy"


class Wait:
    """One wait for a cluster. What it does for a node it does when something of that node has changed.

    tell     called with the rows that changed, at most once a turn
    console  node -> the end of what its console said
    mend     gives a node another machine
    doorway  where nodes without a channel of their own come in
    ran      called with a report that says which hooks ran, once for each time they did
    outside  gives what agents would have said of silent nodes
    stood    nodes whose machines stood still: their clocks did too, and they are told the time
    """

    def __init__(
        self,
        nodes: Sequence[Watched],
        coordinator: Coordinator,
        hypervisor: Hypervisor,
        limits: Limits,
        tell: Callable[[Sequence[NodeRow]], None],
        console: Callable[[str], str],
        mend: Callable[[str], None],
        doorway: Doorway | None = None,
        ran: Callable[[Report], None] = lambda _: None,
        outside: Callable[[], Sequence[Report]] = tuple,
        stood: Collection[str] = (),
    ) -> None:
        self._doorway, self._ran, self._outside = doorway, ran, outside
        self._stood, self._untold = frozenset(stood), set[str]()
        now = time.monotonic()
        self.coordinator, self.hypervisor, self.limits = coordinator, hypervisor, limits
        self._tell, self._console, self._mend = tell, console, mend
        self.ways = {w.row.name: _Way(w, w.row, now, w.await_) for w in nodes}
        self.refused: dict[str, str] = {}
        self._open = {n for n, w in self.ways.items() if w.awaited and not w.done}
        self._changed: dict[str, NodeRow] = {}
        self._broken: dict[str, None] = {}
        counted = Counter(w.row.role for w in nodes)
        self._counts = {**counted, **limits.counts}

    def until_ready(self) -> dict[str, NodeRow]:
        """Each awaited node's row once enough are healthy. Raises WorkFailed or TimedOut."""
        started = time.monotonic()
        look, patient = started + LOOK, True
        channels = {
            n: (w.watched.channel, w.watched.token)
            for n, w in self.ways.items() if not w.watched.silent
        }  # fmt: skip
        with Broker(channels, self._hear, self._refuse, self._opened, self._doorway) as broker:
            try:
                while True:
                    now, deadline = time.monotonic(), started + self.limits.total
                    if patient and now >= started + ANSWER:
                        patient = False
                        self.coordinator.hurry()
                    for said in self._outside():
                        self._hear(said)
                    self._send(broker)
                    self._settle()
                    if now >= look:
                        look = now + LOOK
                        self._look(now)
                    self._fail()
                    self._flush()
                    if not self._open and not self.coordinator.listens:
                        break
                    if now >= deadline:
                        self._late()
                        break
                    ends = (look, deadline, started + ANSWER if patient else deadline)
                    broker.step(max(0.0, min(ends) - now))
            finally:
                self._flush()
        return {name: w.row for name, w in self.ways.items() if w.awaited}

    def _hear(self, said: Said) -> None:
        self.coordinator.hear(said)
        name, way = said.node, self.ways[said.node]
        wrong = self.coordinator.wrong.get(name)
        if wrong and way.row.stage != "failed":
            self._break(way, wrong)
        if not isinstance(said, Report) or said.stage == "left" or way.given_up:
            return
        if said.stage == "failed" and self.coordinator.retries(name):
            return
        if way.row.stage == "healthy" and said.stage != "failed":
            return  # whether it still is, is told by what it was told
        # It counts as healthy once it is settled.
        stage = "contextualized" if said.stage == "healthy" else said.stage
        words = f"{said.message}\n{said.tail}".strip()
        if said.hooks and stage != way.row.stage:
            self._ran(said)
        row = replace(way.row, stage=stage, boot=said.boot, uptime=said.uptime, message=words)
        self._at(way, row)
        if stage == "failed":
            self._broken[name] = None

    def _opened(self, node: str) -> None:
        self.coordinator.opened(node)
        if node in self._stood:
            self._untold.add(node)

    def _refuse(self, node: str, why: str) -> None:
        self.refused.setdefault(node, why)

    def _at(self, way: _Way, row: NodeRow) -> None:
        """The node's row is another now; its time at a stage begins with it."""
        if row.stage != way.row.stage:
            way.since = time.monotonic()
            self._changed[row.name + " " + row.stage] = row
        way.row = row
        if way.awaited and not way.done:
            self._open.add(row.name)
        else:
            self._open.discard(row.name)

    def _flush(self) -> None:
        if self._changed:
            rows, self._changed = list(self._changed.values()), {}
            self._tell(rows)

    def _break(self, way: _Way, message: str) -> None:
        self._at(way, replace(way.row, stage="failed", message=message))
        self._broken[way.row.name] = None

    def _send(self, broker: Broker) -> None:
        for node in self._untold:
            broker.send(node, {"clock": time.time()})
        self._untold.clear()
        try:
            due = self.coordinator.due()
        except TemplateError as cause:
            raise WorkFailed(f"the context cannot be rendered: {cause}") from None
        for node, order in due:
            way = self.ways[node]
            if way.watched.silent:
                continue
            broker.send(node, order)
            if context_of(order) is not None and way.row.stage == "healthy":
                way.awaited = True  # whoever is told something new has to come to terms with it
                self._at(way, replace(way.row, stage="contextualized"))

    def _settle(self) -> None:
        """Nodes that have everything become healthy in the ledger; those that no longer have are waited for again."""
        for name in sorted(self.coordinator.moved()):
            way = self.ways[name]
            if way.given_up or way.row.stage == "failed":
                continue
            state = self.coordinator.state(name)
            if state is not None and self.coordinator.settled(name):
                if way.row.stage != "healthy":
                    self._at(way, replace(way.row, stage="healthy", boot=state.boot, uptime=state.uptime,
                                          message="", context=way.watched.base))  # fmt: skip
                way.settled = True
            elif way.row.stage == "healthy" and way.settled:
                way.settled = False
                self._at(
                    way, replace(way.row, stage="booted" if state is None else "contextualized")
                )

    # --- what goes wrong

    def _look(self, now: float) -> None:
        """Do the machines run, and is no stage's deadline over?"""
        try:
            # Most looks find nothing: one question then, as each costs the host's time, dom0's on Xen.
            states: dict[str, str] = dict.fromkeys(self.hypervisor.alive(), "running")
            if {w.watched.domain for w in self.ways.values() if not w.given_up} - states.keys():
                states = {s.name: s.state for s in self.hypervisor.observe()}
        except WorkFailed as cause:
            seen = ", ".join(f"{n} was {w.row.stage}" for n, w in self.ways.items() if not w.done)
            raise WorkFailed(f"the host was lost while nodes were waited for: {seen}") from cause
        for name, way in self.ways.items():
            if way.given_up or way.row.stage == "failed":
                continue
            state = states.get(way.watched.domain, "gone")
            way.off = None if state in ("running", "paused") else way.off or now
            if way.off is not None:
                if now - way.off < self.limits.away:
                    continue
                words = f"its machine is {state} after stage {way.row.stage}"
                self._break(way, f"{words}\n{self._console(name)}")
                continue
            limit = self.limits.stages.get(NEXT.get(way.row.stage, ""))
            if limit is not None and way.awaited and now - way.since > limit:
                words = f"not {NEXT[way.row.stage]} within {limit:g} s{self._why(name)}"
                self._break(way, f"{words}\n{self._console(name)}")

    def _fail(self) -> None:
        while self._broken:
            name = next(iter(self._broken))
            del self._broken[name]
            if self.ways[name].row.stage == "failed":
                self._failed(self.ways[name])

    def _failed(self, way: _Way) -> None:
        name, role = way.row.name, way.row.role
        why = (way.row.message.partition("\n")[0] or "it does not say why").replace(name, "it")
        way.first = way.first or why
        way.awaited = True
        self._at(way, way.row)
        alike = [w for w in self.ways.values() if w.row.role == role]
        same = sum(w.first == why for w in alike)
        if same > 1 and same == self._counts[role]:
            every = f"every node of {role} failed in the same way: {why}"
            raise WorkFailed(every + _indent(way.row.message, 1), _HINT.format(node=name))
        if sum(w.given_up for w in alike) >= self.limits.spare.get(role, 0):
            raise WorkFailed(
                f"{name} failed: {why}" + _indent(way.row.message, 1), _HINT.format(node=name)
            )
        if way.tries < self.limits.tries:
            way.tries += 1
            self.coordinator.forget(name)
            self._flush()
            self._mend(name)
            self._at(way, NodeRow(way.row.cluster, name, role, way.row.address))
            return
        way.given_up = True
        self._at(way, way.row)
        self.coordinator.lose(name)
        for waiting in sorted(self._open):
            never = self.coordinator.exchange.impossible(self.ways[waiting].row.role)
            if never:
                raise WorkFailed(
                    f"{waiting} can never be ready: it waits for {never}; {name} failed: {why}"
                    + _indent(way.row.message, 1),
                    _HINT.format(node=name),
                )

    def _why(self, node: str) -> str:
        """What the node waits for, and what was wrong with what it sent."""
        what = self.coordinator.missing(node) or self.coordinator.late(node)
        waits = f"; it waits for {', '.join(what)}" if what else ""
        return waits + (f"; {self.refused[node]}" if node in self.refused else "")

    def _late(self) -> None:
        """The deadline passed: with enough healthy nodes the others are given up, else TimedOut."""
        awaited = [w for w in self.ways.values() if w.awaited]
        late = [w for w in awaited if not w.done]
        lost: dict[str, int] = {}
        for way in (w for w in awaited if w.row.stage != "healthy"):
            lost[way.row.role] = lost.get(way.row.role, 0) + 1
        if all(count <= self.limits.spare.get(role, 0) for role, count in lost.items()):
            for way in late:
                way.given_up = True
                words = f"not ready within {self.limits.total:g} s{self._why(way.row.name)}"
                self._at(way, replace(way.row, message=words))
                self._changed[way.row.name + " late"] = way.row
            return
        lines = []
        for way in late:
            name, said = way.row.name, way.row.message.partition("\n")[0]
            last = f"; it last said: {said}" if said else ""
            lines.append(
                f"{name} hung after stage {way.row.stage}{self._why(name)}{last}; "
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
