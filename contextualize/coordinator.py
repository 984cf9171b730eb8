"""What each node is to be told next, from what all of them said: documents go out as soon as they are complete.

Pure. It holds no state that must survive: agents repeat all that counts when they are asked, so a coordinator that was
killed is replaced by a new one that asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from contextualize.exchange import Exchange
from contextualize.message import Given, Report
from contextualize.render import Documents


class Coordinator:
    """nodes    those that are listened to; others of the cluster are left alone
    again    nodes that failed before and are to try once more
    Reports go in by `hear`, orders come out by `due`.
    """

    def __init__(
        self, documents: Documents, exchange: Exchange, nodes: Iterable[str],
        again: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.documents, self.exchange = documents, exchange
        self.nodes = set(nodes)
        self.wrong: dict[str, str] = {}
        """Node -> what it said that cannot be; such a node has failed."""
        self._again = set(again)
        self._by_role: dict[str, list[str]] = {}
        for node in self.nodes:
            self._by_role.setdefault(exchange.members[node], []).append(node)
        self._boot: dict[str, str] = {}
        self._given: dict[tuple[str, str], str] = {}
        self._state: dict[str, Report] = {}
        self._sent: dict[str, str] = {}
        self._drawn: dict[str, dict[str, Any]] = {}
        self._dirty: set[str] = set()

    def opened(self, node: str) -> None:
        """The node's channel is new: what was sent may be lost."""
        self._sent.pop(node, None)
        self._dirty.add(node)

    def hear(self, said: Report | Given) -> None:
        """Take what a node said, in the order in which it said it."""
        node = said.node
        if node not in self.exchange.members:
            return  # it was given up
        if self._boot.get(node) != said.boot:
            self._boot[node] = said.boot
            self._sent.pop(node, None)
            self._state.pop(node, None)
            self._touch(self.exchange.reach(node, "booted"))
        self._dirty.add(node)
        if isinstance(said, Given):
            self._take(said)
        elif said.stage == "booted":
            self._touch(self.exchange.reach(node, "booted"))
        else:
            self._state[node] = said
            if said.stage in ("contextualized", "healthy"):
                self._touch(self.exchange.reach(node, said.stage))

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
        self._by_role[self.exchange.members[node]].remove(node)
        self.nodes.discard(node)
        self._touch(self.exchange.lose(node))

    def forget(self, node: str) -> None:
        """The node's machine is made anew: what it said of itself no longer holds."""
        for known in (self._boot, self._state, self._sent, self.wrong):
            known.pop(node, None)

    def _touch(self, roles: set[str]) -> None:
        for role in roles:
            for node in self._by_role.get(role, ()):
                self._drawn.pop(node, None)
                self._dirty.add(node)

    def due(self) -> list[tuple[str, dict[str, object]]]:
        """(node, what to tell it), for all that changed since the last call. Raises TemplateError."""
        orders: list[tuple[str, dict[str, object]]] = []
        dirty, self._dirty = self._dirty, set()
        for node in sorted(dirty & self.nodes & self._boot.keys()):
            if self.missing(node):
                continue
            state = self._state.get(node)
            document = self._document(node)
            digest = document["digest"]
            if state is not None and state.context == digest:
                if state.stage == "failed" and node in self._again:
                    self._again.discard(node)
                    orders.append((node, {"again": True}))
            elif self._sent.get(node) != digest:
                self._again.discard(node)
                self._sent[node] = digest
                orders.append((node, {"context": document}))
        return orders

    def retries(self, node: str) -> bool:
        """Whether the node's failure is an old one: it will be told to try again."""
        return node in self._again

    def _document(self, node: str) -> dict[str, Any]:
        if node not in self._drawn:
            facts = self.exchange.facts(self.exchange.members[node])
            self._drawn[node] = self.documents.document(node, facts)
        return self._drawn[node]

    def missing(self, node: str) -> tuple[str, ...]:
        """What the node waits for before its hooks may run."""
        return self.exchange.missing(self.exchange.members[node])

    def late(self, node: str) -> tuple[str, ...]:
        """What only its health waits for."""
        return self.exchange.missing(self.exchange.members[node], late=True)

    def state(self, node: str) -> Report | None:
        """The last thing that the node said of its way; None before it was contextualized or failed."""
        return self._state.get(node)

    def settled(self, node: str) -> bool:
        """Whether the node is healthy under its newest context, and everything its health waits for is there."""
        state = self._state.get(node)
        return (
            state is not None
            and state.stage == "healthy"
            and not self.missing(node)
            and state.context == self._document(node)["digest"]
            and not self.late(node)
        )
