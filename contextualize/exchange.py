"""Who still waits for what: a machine of facts and stages.

Pure. A *fact* is a named value that a node gives (text or bytes), or a readiness without a value. Since requirements
are a role's (contextualize/declared.py), what 10,000 nodes wait for is decided by a handful of counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from contextualize.declared import Declared, Require, givers

STAGES = ("defined", "booted", "contextualized", "healthy")
FACT_LIMIT = 1 << 20
"""Bytes that the value of a fact may have."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a node gave. `value` is None for a readiness."""

    node: str
    name: str
    value: bytes | None = field(repr=False)
    secret: bool = False


class Exchange:
    """The facts and stages of one cluster as they come in. Telling it the same twice changes nothing.

    roles   what each role declares
    members node -> role
    quorum  role -> how many of its nodes must be there (its min); a role not named: all
    """

    def __init__(
        self, roles: Mapping[str, Declared], members: Mapping[str, str],
        quorum: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.roles, self.members = dict(roles), dict(members)
        self._quorum = dict(quorum or {})
        self._count = dict.fromkeys(roles, 0)
        for role in members.values():
            self._count[role] += 1
        self._facts: dict[tuple[str, str], dict[str, Fact]] = {}
        self._at: dict[tuple[str, str], set[str]] = {}
        self._chosen: dict[tuple[str, str], str] = {}
        self._provided = {(role, p.name): p for role, d in self.roles.items() for p in d.provides}
        self._wanted: dict[str, set[str]] = {}
        for role, d in self.roles.items():
            for need in d.requires:
                self._wanted.setdefault(need.fact or need.role, set()).add(role)

    def tell(self, node: str, name: str, value: bytes | None) -> set[str]:
        """Take a fact; the roles that depend on it, empty when nothing is new.

        ValueError (in words, naming the node) for a fact that its role does not provide, or that is too large.
        """
        role = self.members[node]
        given = self._provided.get((role, name))
        if given is None:
            raise ValueError(
                f"{node} gave the fact {name[:64]}, which its role {role} does not provide"
            )
        if value is not None and len(value) > FACT_LIMIT:
            raise ValueError(
                f"{node} gave {name} with {len(value)} bytes, {FACT_LIMIT} are allowed"
            )
        if (value is None) != given.ready:
            kind = "no value" if given.ready else "a value"
            raise ValueError(f"{node} gave {name}, which should have {kind}")
        here = self._facts.setdefault((role, name), {})
        old = here.get(node)
        if old is not None and old.value == value:
            return set()
        here[node] = Fact(node, name, value, given.secret)
        return set(self._wanted.get(name, ()))

    def knows(self, node: str, name: str) -> Fact | None:
        return self._facts.get((self.members[node], name), {}).get(node)

    def reach(self, node: str, stage: str) -> set[str]:
        """The node is at `stage`, and so past those before it; the roles that depend on its role."""
        role = self.members[node]
        at = STAGES.index(stage)
        new = False
        for n, name in enumerate(STAGES):
            there = self._at.setdefault((role, name), set())
            if n <= at and node not in there:
                there.add(node)
                new = True
            elif n > at and node in there:
                there.discard(node)
                new = True
        return set(self._wanted.get(role, ())) if new else set()

    def lose(self, node: str) -> set[str]:
        """The node is given up or gone: nobody waits for it; the roles that could depend on it."""
        touched = self.forget(node)
        role = self.members.pop(node)
        self._count[role] -= 1
        touched |= self._wanted.get(role, set())
        for p in self.roles[role].provides:
            touched |= self._wanted.get(p.name, set())
        return touched

    def forget(self, node: str) -> set[str]:
        """The node begins anew: its facts and stages are no longer there; the roles that depend on them."""
        role = self.members[node]
        touched: set[str] = set()
        for (of, name), facts in self._facts.items():
            if of == role and facts.pop(node, None) is not None:
                touched |= self._wanted.get(name, set())
        for (of, _), there in self._at.items():
            if of == role and node in there:
                there.discard(node)
                touched |= self._wanted.get(role, set())
        return touched

    def givers(self, role: str) -> set[str]:
        """Roles that the role requires something of."""
        found: set[str] = set()
        for need in self.roles[role].requires:
            found |= {need.role} if need.stage else set(givers(self.roles, need))
        return found

    def missing(self, role: str, late: bool = False) -> tuple[str, ...]:
        """What the role's nodes still wait for, in words with how many there are; empty when they need not wait.

        late  what their health waits for, besides
        """
        return tuple(
            words
            for need in self.roles[role].requires
            if need.late == late and (words := self._lacks(need))
        )

    def impossible(self, role: str) -> str:
        """What the role's nodes require and can never get, since too few nodes that give it are left; "" if nothing."""
        for need in self.roles[role].requires:
            by, wanted = self._asked(need)
            left = sum(self._count[r] for r in by)
            if left < wanted:
                return f"{need.fact or need.stage} of {' or '.join(by)} ({left} left of {wanted})"
        return ""

    def _asked(self, need: Require) -> tuple[list[str], int]:
        """The roles that give it, and how many of their nodes must."""
        by = [need.role] if need.stage else givers(self.roles, need)
        match need.of:
            case "one":
                return by, 1
            case "all":
                return by, max(1, sum(self._count[r] for r in by))
            case "quorum":
                return by, sum(self._quorum.get(r, self._count[r]) for r in by)
        return by, need.of

    def _lacks(self, need: Require) -> str:
        by, wanted = self._asked(need)
        if need.stage:
            have = len(self._at.get((need.role, need.stage), ()))
        else:
            have = sum(len(self._facts.get((r, need.fact), ())) for r in by)
        if have >= wanted:
            return ""
        return f"{need.fact or need.stage} of {' or '.join(by)} ({have} of {wanted})"

    def facts(self, role: str) -> dict[str, dict[str, Fact]]:
        """What the role's nodes may read now: fact -> node -> Fact. Of one node: only the chosen one's."""
        found: dict[str, dict[str, Fact]] = {}
        for need in self.roles[role].requires:
            if not need.fact or (need.late and self._lacks(need)):
                continue  # what only health waits for comes as one change, when it is all there
            there = {
                node: fact
                for r in givers(self.roles, need)
                if self._may(r, need.fact, role)
                for node, fact in self._facts.get((r, need.fact), {}).items()
                if fact.value is not None
            }
            if need.of == "one" and there:
                there = self._one(role, need.fact, there)
            if there:
                found.setdefault(need.fact, {}).update(there)
        return found

    def _may(self, giver: str, name: str, reader: str) -> bool:
        to = self._provided[giver, name].to
        return not to or reader in to

    def _one(self, role: str, name: str, there: dict[str, Fact]) -> dict[str, Fact]:
        """The same one as before while it is there: a later giver changes nothing."""
        chosen = self._chosen.get((role, name))
        if chosen not in there:
            chosen = self._chosen[role, name] = min(there)
        return {chosen: there[chosen]}
