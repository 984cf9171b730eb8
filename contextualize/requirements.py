"""All that would make the nodes of a cluster wait for ever, found before anything starts.

Pure. A cycle is found on a graph of events: a role's nodes are contextualized after what they require; a fact is given
after its role is contextualized, unless it is early; a role is healthy after it is contextualized and after what it
requires before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contextualize.declared import Declared, Require, givers


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong with what the roles declare together."""

    role: str
    what: str
    hint: str


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
