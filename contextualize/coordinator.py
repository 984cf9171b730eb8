"""What each node is to be told next, from what all of them said: documents go out as soon as they are complete.

Pure. It holds no state that must survive: agents repeat all that counts when they are asked, so a coordinator that was
killed is replaced by a new one that asks. What nodes of a role are told alike is made once for all of them, and again
only when a fact of theirs is another; while a role waits, a fact that is not the last costs nothing for its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from contextualize.exchange import Exchange
from contextualize.message import Given, Report, Request, Said, Want, supply
from contextualize.part import text_of
from contextualize.render import Alike, Documents

Order = dict[str, object] | bytes
"""What a node is told: a body that is to be signed for it, or a line that is ready."""


@dataclass(slots=True)
class _Role:
    """A role's nodes that are listened to, and what is known for all of them until a fact changes it."""

    nodes: set[str] = field(default_factory=set)
    givers: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    """Its nodes that were healthy before and have not said so yet: their facts are still to come."""
    version: int = 0
    alike: Alike | None = None
    missing: tuple[str, ...] | None = None
    late: tuple[str, ...] | None = None
    lines: dict[str, bytes] = field(default_factory=dict)


class Coordinator:
    """nodes    those that are listened to; others of the cluster are left alone
    again    nodes that failed before and are to try once more
    before   nodes that were healthy when we began: nothing changes for a node that has a context in force before all
             of them that give it something have repeated it, or `hurry` was called
    What nodes say goes in by `hear`, orders come out by `due`.
    """

    def __init__(
        self, documents: Documents, exchange: Exchange, nodes: Iterable[str],
        again: Iterable[str] = (), before: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.documents, self.exchange = documents, exchange
        self.wrong: dict[str, str] = {}
        """Node -> what it said that cannot be; such a node has failed."""
        self._again = set(again)
        self._role = {node: exchange.members[node] for node in nodes}
        self._roles = {role: _Role(givers=exchange.givers(role)) for role in exchange.roles}
        for name, role in self._roles.items():
            for giver in role.givers:
                self._roles[giver].readers.add(name)
        for node, name in self._role.items():
            self._roles[name].nodes.add(node)
        for node in before:
            self._roles[self._role[node]].silent.add(node)
        self._boot: dict[str, tuple[str, int]] = {}
        self._given: dict[tuple[str, str], str] = {}
        self._state: dict[str, Report] = {}
        self._sent: dict[str, str] = {}
        self._digests: dict[str, tuple[int, str]] = {}
        self._wants: dict[str, tuple[str, ...]] = {}
        self._dirty: set[str] = set()
        self._moved: set[str] = set()
        self._stirred: set[str] = set()

    def opened(self, node: str) -> None:
        """The node's channel is new: what was sent may be lost."""
        self._sent.pop(node, None)
        self._dirty.add(node)

    def hear(self, said: Said) -> None:
        """Take what a node said, in the order in which it said it."""
        node = said.node
        if node not in self._role:
            return  # it was given up
        self._moved.add(node)
        boot, started = self._boot.get(node, ("", 0))
        if boot != said.boot:
            if boot:
                self.forget(node)
            self._boot[node] = said.boot, 0
            self._touch(self.exchange.reach(node, "booted"), facts=False)
        self._dirty.add(node)
        match said:
            case Given():
                self._take(said)
            case Request():
                pass  # it is for whoever answers requests, and is told again until then
            case Want():
                self._wants[node] = said.parts
            case Report(stage="booted"):
                if started:  # in this boot, and again: its agent is another
                    self._sent.pop(node, None)
                    self._state.pop(node, None)
                self._boot[node] = said.boot, said.seq + 1
                self._touch(self.exchange.reach(node, "booted"), facts=False)
            case Report():
                self._state[node] = said
                if said.stage in ("contextualized", "healthy"):
                    self._touch(self.exchange.reach(node, said.stage), facts=False)
                if said.stage in ("healthy", "failed"):
                    self._answered(node)

    def _answered(self, node: str) -> None:
        """A node has said all that it said before."""
        role = self._roles[self._role[node]]
        if node in role.silent:
            role.silent.discard(node)
            if not role.silent:
                self._stirred |= role.readers

    def hurry(self) -> None:
        """Wait no longer for nodes that were healthy and are silent."""
        for role in self._roles.values():
            if role.silent:
                role.silent.clear()
                self._stirred |= role.readers

    @property
    def listens(self) -> bool:
        """Whether nodes that others read from have still to repeat what they gave."""
        return any(role.silent and role.readers for role in self._roles.values())

    def _take(self, said: Given) -> None:
        key = said.node, said.fact
        known = self.exchange.knows(*key)
        if known is not None and known.value != said.value and self._given.get(key) == said.boot:
            self.wrong[said.node] = f"{said.node} gave {said.fact} twice, with different values"
            return
        try:
            self._touch(self.exchange.tell(said.node, said.fact, said.value))
        except ValueError as cause:
            self.wrong[said.node] = str(cause)
            return
        self._given[key] = said.boot

    def lose(self, node: str) -> None:
        """Give the node up: nobody waits for it any more."""
        self._answered(node)
        role = self._roles[self._role.pop(node)]
        role.nodes.discard(node)
        self._touch(self.exchange.lose(node))

    def forget(self, node: str) -> None:
        """The node begins anew, in another boot or on another machine: what it said of itself no longer holds."""
        self._answered(node)
        for known in (self._boot, self._state, self._sent, self._wants, self.wrong):
            known.pop(node, None)
        self._moved.add(node)
        self._touch(self.exchange.forget(node))

    def _touch(self, roles: set[str], facts: bool = True) -> None:
        """facts  whether a fact of theirs is another, not only a stage that they wait for"""
        for name in roles:
            role = self._roles[name]
            role.missing = role.late = None
            if facts:
                role.version += 1
                role.alike = None
                role.lines.clear()
        self._stirred |= roles

    def _spread(self) -> None:
        """Roles whose facts changed make their nodes worth a look, unless they still wait."""
        for name in self._stirred:
            if not self._missing(name):
                nodes = self._roles[name].nodes
                self._dirty |= nodes
                if not self._late(name):
                    self._moved |= nodes
        self._stirred.clear()

    def due(self) -> list[tuple[str, Order]]:
        """(node, what to tell it), for all that changed since the last call. Raises TemplateError."""
        self._spread()
        orders: list[tuple[str, Order]] = []
        dirty, self._dirty = self._dirty, set()
        for node in sorted(dirty & self._boot.keys() & self._role.keys()):
            name = self._role[node]
            if self._missing(name):
                self._wants.pop(node, None)
                continue
            state = self._state.get(node)
            if state is not None and state.context and self._early(name):
                continue  # who answers last stirs it again
            digest = self._digest(node)
            if state is not None and state.context == digest:
                if state.stage == "failed" and node in self._again:
                    self._again.discard(node)
                    orders.append((node, {"again": True}))
            elif self._sent.get(node) != digest:
                if state is not None:
                    self._again.discard(node)  # else what it said of before may still be on its way
                self._sent[node] = digest
                self._wants.pop(node, None)
                orders.append((node, {"context": self.documents.told(node, self._alike(name))}))
            elif state is not None and state.stage == "failed":
                self._again.discard(node)  # that was of before; the next is of what it was told
            orders += [(node, line) for line in self._parts(node, name)]
        return orders

    def _early(self, role: str) -> bool:
        return any(self._roles[giver].silent for giver in self._roles[role].givers)

    def _parts(self, node: str, name: str) -> Iterable[bytes]:
        """Lines with the parts that the node wants: only such as its role's document has."""
        alike, lines = self._alike(name), self._roles[name].lines
        for digest in self._wants.pop(node, ()):
            if digest in alike.parts:
                if digest not in lines:
                    lines[digest] = supply(text_of(alike.parts[digest]))
                yield lines[digest]

    def retries(self, node: str) -> bool:
        """Whether the node's failure is an old one: it will be told to try again."""
        return node in self._again

    def moved(self) -> set[str]:
        """Nodes of which something is another than at the last call: they may be settled now, or no longer."""
        self._spread()
        moved, self._moved = self._moved & self._role.keys(), set()
        return moved

    def _alike(self, name: str) -> Alike:
        role = self._roles[name]
        if role.alike is None:
            role.alike = self.documents.alike(name, self.exchange.facts(name))
        return role.alike

    def _digest(self, node: str) -> str:
        name = self._role[node]
        version, digest = self._digests.get(node, (-1, ""))
        if version != self._roles[name].version:
            digest = self.documents.told(node, self._alike(name))["digest"]
            self._digests[node] = self._roles[name].version, digest
        return digest

    def _missing(self, name: str) -> tuple[str, ...]:
        role = self._roles[name]
        if role.missing is None:
            role.missing = self.exchange.missing(name)
        return role.missing

    def _late(self, name: str) -> tuple[str, ...]:
        role = self._roles[name]
        if role.late is None:
            role.late = self.exchange.missing(name, late=True)
        return role.late

    def missing(self, node: str) -> tuple[str, ...]:
        """What the node waits for before its hooks may run."""
        return self._missing(self._role[node]) if node in self._role else ()

    def late(self, node: str) -> tuple[str, ...]:
        """What only its health waits for."""
        return self._late(self._role[node]) if node in self._role else ()

    def state(self, node: str) -> Report | None:
        """The last thing that the node said of its way; None before it was contextualized or failed."""
        return self._state.get(node)

    def settled(self, node: str) -> bool:
        """Whether the node is healthy under its newest context, and everything its health waits for is there."""
        state = self._state.get(node)
        if state is None or state.stage != "healthy" or node not in self._role:
            return False
        name = self._role[node]
        if self._missing(name) or self._late(name) or self._early(name):
            return False
        return state.context == self._digest(node)


def context_of(order: Order) -> dict[str, Any] | None:
    """The document that an order brings."""
    found = None if isinstance(order, bytes) else order.get("context")
    return found if isinstance(found, dict) else None
