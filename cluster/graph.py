"""What the roles of a cluster wait for, as a graph of stages and facts in Mermaid's or Graphviz's language.

An arrow goes from what comes first to what waits for it. Of a running cluster each stage and fact says how many nodes
have reached it. A fact counts as given when its node is past the stage after which it gives it: an early one from
contextualized on, any other once the node is healthy. The ledger knows stages; facts stay with the agents.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from contextualize.declared import Declared, Provide, givers
from contextualize.exchange import STAGES

if TYPE_CHECKING:
    from cluster.ledger import NodeRow

State = Literal["", "reached", "partly", "missing"]
SHOWN = STAGES[1:]
"""Stages that are drawn: a node is defined in any case."""
COLOURS = {"reached": ("#dff3e0", "#2e7d32"), "partly": ("#fff3d6", "#b26a00"),
           "missing": ("#fbe0df", "#c62828")}  # fmt: skip
"""(inside, line)."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stage or a fact of a role.

    notes    what is said of a fact besides its name, as in secret
    missing  nodes that have not reached it; `total` is 0 when nothing is known, as of a file
    """

    role: str
    name: str
    fact: bool
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    total: int = 0

    @property
    def key(self) -> str:
        return f"{self.role}.{self.name}" if self.fact else f"{self.role} {self.name}"

    @property
    def state(self) -> State:
        if not self.total:
            return ""
        if not self.missing:
            return "reached"
        return "partly" if len(self.missing) < self.total else "missing"

    @property
    def label(self) -> str:
        """Its name, what is said of it, and how many nodes have reached it."""
        text = ", ".join((self.name, *self.notes))
        return f"{text} {self.total - len(self.missing)}/{self.total}" if self.total else text


@dataclass(frozen=True, slots=True)
class Arrow:
    """`after` waits for `before`. `of`: for how many of its nodes, "" inside of a role."""

    before: str
    after: str
    of: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """roles  role -> how many nodes it has"""

    cluster: str
    roles: Mapping[str, int]
    events: tuple[Event, ...]
    arrows: tuple[Arrow, ...]


def graph(
    cluster: str,
    roles: Mapping[str, Declared],
    counts: Mapping[str, int],
    nodes: Sequence[NodeRow] | None = None,
) -> Graph:
    """The graph of what the roles declare. `nodes`: as far as each of a running cluster has come."""
    found: list[Event] = []
    arrows: list[Arrow] = []
    for role, declared in roles.items():
        here = None if nodes is None else [n for n in nodes if n.role == role]
        for stage in SHOWN:
            found.append(Event(role, stage, False, (), *_reached(here, stage)))
        arrows += [Arrow(f"{role} {a}", f"{role} {b}") for a, b in itertools.pairwise(SHOWN)]
        for p in declared.provides:
            surely = "contextualized" if p.early else "healthy"
            found.append(Event(role, p.name, True, _notes(p), *_reached(here, surely)))
            after = "booted" if p.early else "contextualized"
            arrows.append(Arrow(f"{role} {after}", f"{role}.{p.name}"))
    for role, declared in roles.items():
        for need in declared.requires:
            waits = f"{role} {'healthy' if need.late else 'contextualized'}"
            if need.stage:
                arrows.append(Arrow(f"{need.role} {need.stage}", waits, str(need.of)))
            else:
                arrows += [
                    Arrow(f"{by}.{need.fact}", waits, str(need.of)) for by in givers(roles, need)
                ]
    return Graph(cluster, dict(counts), tuple(found), tuple(dict.fromkeys(arrows)))


def _reached(nodes: Sequence[NodeRow] | None, stage: str) -> tuple[tuple[str, ...], int]:
    """(nodes that are not at `stage`, of how many). A node that failed has reached nothing."""
    there = nodes or ()
    at = STAGES.index(stage)
    missing = (n.name for n in there if n.stage not in STAGES or STAGES.index(n.stage) < at)
    return tuple(missing), len(there)


def _notes(p: Provide) -> tuple[str, ...]:
    return tuple(
        w for w, on in (("secret", p.secret), ("ready", p.ready), ("early", p.early)) if on
    )


def data(drawn: Graph) -> dict[str, Any]:
    """The graph for programs."""
    return {
        "cluster": drawn.cluster, "roles": dict(drawn.roles),
        "events": [
            {"event": e.key, "role": e.role, "kind": "fact" if e.fact else "stage", "name": e.name,
             "notes": list(e.notes), "state": e.state or None, "nodes": e.total, "missing": list(e.missing)}
            for e in drawn.events
        ],
        "arrows": [{"before": a.before, "after": a.after, "of": a.of or None} for a in drawn.arrows],
    }  # fmt: skip


def rows(drawn: Graph) -> list[tuple[str, str, str, str, str]]:
    """(role, event, what it waits for of other roles, how many nodes have reached it, which have not)."""
    found = []
    for role, count in drawn.roles.items():
        shown = f"{role} ×{count}"
        for e in (e for e in drawn.events if e.role == role):
            waits = [
                a.before + (f" ({a.of})" if a.of != "one" else "")
                for a in drawn.arrows if a.after == e.key and a.of
            ]  # fmt: skip
            what = ", ".join((f"gives {e.name}" if e.fact else e.name, *e.notes))
            reached = f"{e.total - len(e.missing)}/{e.total}" if e.total else ""
            found.append((shown, what, ", ".join(waits), reached, " ".join(e.missing)))
            shown = ""
    return found


def mermaid(drawn: Graph) -> str:
    """Text for Mermaid's flowchart (https://mermaid.js.org/syntax/flowchart.html)."""
    names: dict[str, str] = {}
    for e in drawn.events:
        name = f"{e.role}_{'gives_' if e.fact else ''}{e.name}".replace("-", "_")
        names[e.key] = f"{name}_{len(names)}" if name in names.values() else name
    lines = ["flowchart LR"]
    for role, count in drawn.roles.items():
        # The prefix keeps a role called `end` from ending its own box.
        lines.append(f'    subgraph of_{role.replace("-", "_")}["{role} ×{count}"]')
        for e in (e for e in drawn.events if e.role == role):
            left, right = ("{{", "}}") if e.fact else ("([", "])")
            lines.append(f'        {names[e.key]}{left}"{e.label}"{right}')
        lines.append("    end")
    for a in drawn.arrows:
        text = f"|{a.of}| " if a.of not in ("", "one") else ""
        line = "==>" if a.of else "-->"
        lines.append(f"    {names[a.before]} {line}{text or ' '}{names[a.after]}")
    for state, (inside, line) in COLOURS.items():
        there = [names[e.key] for e in drawn.events if e.state == state]
        if there:
            lines.append(f"    classDef {state} fill:{inside},stroke:{line},color:#222")
            lines.append(f"    class {','.join(there)} {state}")
    return "\n".join(lines) + "\n"


def dot(drawn: Graph) -> str:
    """Text for Graphviz (https://graphviz.org/doc/info/lang.html)."""
    quote = json.dumps  # of plain words the same
    lines = [f"digraph {quote(drawn.cluster)} {{", "    rankdir=LR",
             '    node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"]',
             '    edge [fontname="sans-serif"]']  # fmt: skip
    for n, (role, count) in enumerate(drawn.roles.items()):
        lines.append(f"    subgraph cluster_{n} {{")
        lines.append(f'        label="{role} x{count}"; style=rounded; color=gray')
        for e in (e for e in drawn.events if e.role == role):
            more = ", shape=hexagon, style=filled" if e.fact else ""
            if e.state:
                inside, line = COLOURS[e.state]
                more += f', fillcolor="{inside}", color="{line}"'
            lines.append(f"        {quote(e.key)} [label={quote(e.label)}{more}]")
        lines.append("    }")
    for a in drawn.arrows:
        more = f", label={quote(a.of)}" if a.of not in ("", "one") else ""
        style = f" [style=bold{more}]" if a.of else ""
        lines.append(f"    {quote(a.before)} -> {quote(a.after)}{style}")
    return "\n".join([*lines, "}"]) + "\n"
