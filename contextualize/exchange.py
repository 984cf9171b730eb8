"""What roles give and need, and who still waits for what: declarations checked for cycles, and a machine of facts.

Pure. A *fact* is a named value that a node gives (text or bytes), or a readiness without a value. Roles declare what
they provide and require (builder/language/context.py); requirements are a role's, never a node's, so what 10,000
nodes wait for is decided by a handful of counters.

A cycle is found on a graph of events: a role's nodes are contextualized after what they require; a fact is given after
its role is contextualized, unless it is early; a role is healthy after it is contextualized and after what it
requires before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Of = Literal["one", "all", "quorum"] | int
STAGES = ("defined", "booted", "contextualized", "healthy")
FACT_LIMIT = 1 << 20
"""Bytes that the value of a fact may have."""


@dataclass(frozen=True, slots=True)
class Provide:
    """how  file, command, tcp, probe, or hook (a hook writes the value); `what` is its argument
    to   roles that may read it; empty: every role that requires it
    """

    name: str
    how: str
    what: str = ""
    secret: bool = False
    to: tuple[str, ...] = ()
    early: bool = False

    @property
    def ready(self) -> bool:
        """Whether it is a readiness: it has no value."""
        return self.how in ("tcp", "probe")


@dataclass(frozen=True, slots=True)
class Require:
    """A fact (of `role`, or of whoever provides it when that is ""), or a stage of `role`."""

    fact: str = ""
    stage: str = ""
    role: str = ""
    of: Of = "one"
    late: bool = False
    """Only the node's health waits for it."""

    def __str__(self) -> str:
        many = "" if self.of == "one" else f" of {self.of}"
        where = f" from {self.role}" if self.role else ""
        return f"{self.fact}{many}{where}" if self.fact else f"{self.role} {self.stage}{many}"


@dataclass(frozen=True, slots=True)
class File:
    """A file that deployment completes: `text` is a template, or `fact` names the fact whose bytes it holds."""

    path: str
    mode: str
    owner: str = "root"
    text: str | None = None
    fact: str = ""
    reload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """What a role says of deployment. `sees` None: its nodes know every node by name."""

    provides: tuple[Provide, ...] = ()
    requires: tuple[Require, ...] = ()
    files: tuple[File, ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    """(tcp or command, its argument)."""
    sees: tuple[str, ...] | None = None

    def __add__(self, other: Declared) -> Declared:
        """Both; what `other` sees, if it says so."""
        return Declared(
            self.provides + other.provides, self.requires + other.requires,
            self.files + other.files, self.probes + other.probes,
            self.sees if other.sees is None else other.sees,
        )  # fmt: skip


def declared(data: Mapping[str, Any]) -> Declared:
    """From an image's manifest. ValueError if it is something else."""
    try:
        return Declared(
            tuple(
                Provide(p["name"], p["how"], str(p.get("what", "")), bool(p.get("secret")),
                        tuple(p.get("to", ())), bool(p.get("early")))
                for p in data.get("provides", ())
            ),
            tuple(
                Require(r.get("fact", ""), r.get("stage", ""), r.get("from", ""), r.get("of", "one"),
                        r.get("before") == "healthy")
                for r in data.get("requires", ())
            ),
            tuple(
                File(f["path"], f["mode"], f.get("owner", "root"), f.get("text"), f.get("fact", ""),
                     tuple(f.get("reload", ())))
                for f in data.get("files", ())
            ),
            tuple((p[0], str(p[1])) for p in data.get("healthy", ())),
            None if data.get("sees") is None else tuple(data["sees"]),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as cause:
        raise ValueError(f"not a declaration of context: {cause}") from None


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with what the roles declare together."""

    role: str
    what: str
    hint: str


def givers(roles: Mapping[str, Declared], need: Require) -> list[str]:
    """Roles that provide what `need` asks for."""
    return [
        name
        for name, r in roles.items()
        if need.role in ("", name) and any(p.name == need.fact for p in r.provides)
    ]


def flaws(roles: Mapping[str, Declared], counts: Mapping[str, int]) -> list[Flaw]:
    """All that would make a cluster of these roles wait for ever, or give a secret to nobody.

    counts  how many nodes each role has
    """
    found: list[Flaw] = []
    for name, role in roles.items():
        seen: set[str] = set()
        for p in role.provides:
            if p.name in seen:
                found.append(Flaw(name, f"provides {p.name} twice", "give each fact one origin"))
            seen.add(p.name)
            found += [
                Flaw(name, f"gives {p.name} to '{r}', which is no role", "correct its 'to'")
                for r in p.to if r not in roles
            ]  # fmt: skip
        paths: set[str] = set()
        for f in role.files:
            if f.path in paths:
                found.append(Flaw(name, f"has {f.path} twice among its context files", "keep one"))
            paths.add(f.path)
            if f.fact and not any(n.fact == f.fact and n.of == "one" for n in role.requires):
                what = f"fills {f.path} with {f.fact}, which it does not require of one node"
                found.append(Flaw(name, what, f"add 'fact: {f.fact}' to its requires"))
        found += [
            Flaw(name, f"sees '{r}', which is no role", "correct its 'sees'")
            for r in role.sees or () if r not in roles
        ]  # fmt: skip
        for need in role.requires:
            found += _needs(name, need, roles, counts)
    return found or _cycles(roles)


def _needs(
    name: str, need: Require, roles: Mapping[str, Declared], counts: Mapping[str, int]
) -> list[Flaw]:
    if need.role and need.role not in roles:
        return [Flaw(name, f"requires {need}, and there is no such role", "correct its 'from'")]
    if need.stage:
        return _enough(name, need, [need.role], counts)
    by = givers(roles, need)
    if not by:
        whom = f"the role {need.role} does not provide it" if need.role else "no role provides it"
        return [Flaw(name, f"requires {need.fact}, and {whom}", "add it to a role's provides")]
    shut = [
        r
        for r in by
        for p in roles[r].provides
        if p.name == need.fact and p.to and name not in p.to
    ]
    if shut:
        what = f"requires {need.fact}, which {', '.join(shut)} does not give to it"
        return [Flaw(name, what, f"add {name} to its 'to'")]
    return _enough(name, need, by, counts)


def _enough(name: str, need: Require, by: Iterable[str], counts: Mapping[str, int]) -> list[Flaw]:
    there = sum(counts[r] for r in by)
    if isinstance(need.of, int) and need.of > there:
        what = f"requires {need}, and there are {there} such nodes"
        return [Flaw(name, what, "ask for fewer, or raise the count")]
    return []


def edges(roles: Mapping[str, Declared]) -> dict[str, list[str]]:
    """Event -> the events it waits for. Events are "ROLE STAGE" and "ROLE.FACT"."""
    graph: dict[str, list[str]] = {}
    for name, role in roles.items():
        graph[f"{name} booted"] = []
        here, well = f"{name} contextualized", f"{name} healthy"
        graph[here], graph[well] = [f"{name} booted"], [here]
        for p in role.provides:
            graph[f"{name}.{p.name}"] = [f"{name} booted" if p.early else here]
        for need in role.requires:
            on = [f"{need.role} {need.stage}"] if need.stage else [
                f"{r}.{need.fact}" for r in givers(roles, need)
            ]  # fmt: skip
            graph[well if need.late else here] += on
    return graph


def _cycles(roles: Mapping[str, Declared]) -> list[Flaw]:
    """One flaw for the first cycle found, naming its events in the order of waiting."""
    graph = edges(roles)
    done: set[str] = set()
    for start in graph:
        path: list[str] = []
        stack = [(start, iter(graph[start]))]
        on_path = {start}
        path.append(start)
        while stack:
            event, rest = stack[-1]
            following = next((e for e in rest if e not in done), None)
            if following is None:
                stack.pop()
                path.pop()
                on_path.discard(event)
                done.add(event)
            elif following in on_path:
                loop = [*path[path.index(following) :], following]
                role = loop[0].partition(" ")[0].partition(".")[0]
                hint = (
                    "let one of its facts be 'early', or let a requirement wait 'before: healthy'"
                )
                return [Flaw(role, "waits for itself: " + " <- ".join(loop), hint)]
            else:
                path.append(following)
                on_path.add(following)
                stack.append((following, iter(graph.get(following, ()))))
    return []


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
        role = self.members.pop(node)
        self._count[role] -= 1
        touched = set(self._wanted.get(role, ()))
        for (of, name), facts in self._facts.items():
            if of == role and facts.pop(node, None) is not None:
                touched |= self._wanted.get(name, set())
        for (of, _), there in self._at.items():
            if of == role:
                there.discard(node)
        for p in self.roles[role].provides:
            touched |= self._wanted.get(p.name, set())
        return touched

    def missing(self, role: str, late: bool = False) -> tuple[str, ...]:
        """What the role's nodes still wait for, in words with how many there are; empty when they need not wait.

        late  what their health waits for, besides
        """
        return tuple(
            words
            for need in self.roles[role].requires
            if need.late == late and (words := self._lacks(need))
        )

    def _lacks(self, need: Require) -> str:
        by = [need.role] if need.stage else givers(self.roles, need)
        total = sum(self._count[r] for r in by)
        if need.stage:
            have = len(self._at.get((need.role, need.stage), ()))
        else:
            have = sum(len(self._facts.get((r, need.fact), ())) for r in by)
        wanted = {
            "one": 1, "all": max(1, total), "quorum": sum(self._quorum.get(r, self._count[r]) for r in by)
        }.get(str(need.of), need.of)  # fmt: skip
        assert isinstance(wanted, int)
        if have >= wanted:
            return ""
        whom = " or ".join(by)
        what = need.fact or need.stage
        return f"{what} of {whom} ({have} of {wanted})"

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
