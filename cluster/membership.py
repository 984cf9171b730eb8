"""`phx scale`, `phx replace`, `phx recontext`, `phx events`: a running cluster changes, and says what happened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli import Json
from builder.terminal import Terminal
from cluster.hosts.cli import here

if TYPE_CHECKING:
    from cluster.draft import Draft

Cluster = Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")]


def _result(site: Any, drawn: Draft, as_json: bool, nothing: str) -> None:
    from cluster import show

    terminal = Terminal()
    rows = show.nodes(site, [drawn.spec.cluster])
    if as_json:
        terminal.json(
            {"cluster": drawn.spec.cluster, "generation": drawn.row.generation,
             "changes": len(drawn.changes), "nodes": rows}
        )  # fmt: skip
    elif drawn.changes:
        show.node_table(rows, terminal)
    else:
        terminal.say(f"{drawn.spec.cluster}: {nothing}")


def scale(
    cluster: Cluster,
    counts: Annotated[list[str], typer.Argument(metavar="ROLE=N...", help="How many nodes of it.")],
    as_json: Json = False,
) -> None:
    """Add nodes to a running cluster, or let its last ones leave; all others learn of it and go on."""
    from builder.errors import InputError, Problem
    from cluster import launch

    wanted: dict[str, int] = {}
    problems = []
    for text in counts:
        role, _, number = text.partition("=")
        if not number.isdigit() or not role:
            problems.append(Problem("", f"'{text}' is not ROLE=N", "write it as in worker=3"))
        else:
            wanted[role] = int(number)
    if problems:
        raise InputError(problems)
    site = here()
    drawn = launch.scale(site, cluster, wanted, Terminal().report)
    _result(site, drawn, as_json, "it has that size already")


def replace(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="NODE, or CLUSTER/NODE.")],
    as_json: Json = False,
) -> None:
    """Give nodes another machine each: the same name, address and keys, a fresh disk."""
    from builder.errors import InputError, Problem
    from cluster import launch
    from cluster.site import node_of

    site = here()
    found = [node_of(site, node) for node in nodes]
    clusters = {row.name for row, _ in found}
    if len(clusters) > 1:
        what = f"these are nodes of {len(clusters)} clusters: {', '.join(sorted(clusters))}"
        raise InputError(Problem("", what, "replace those of one at a time"))
    names = [node.name for _, node in found]
    drawn = launch.renew(site, clusters.pop(), names, Terminal().report)
    _result(site, drawn, as_json, "nothing was replaced")


def recontext(
    cluster: Annotated[
        str, typer.Argument(metavar="CLUSTER|CLUSTER.yaml", help="Its name, or its changed file.")
    ],
    as_json: Json = False,
) -> None:
    """Bring changed data, templates and keys of a cluster file to its running nodes."""
    from cluster import launch, spec

    site = here()
    file = Path(cluster) if cluster.endswith((".yaml", ".yml")) else None
    name = spec.load(file)[0].cluster if file else cluster
    drawn = launch.recontext(site, name, file, Terminal().report)
    said = f"generation {drawn.row.generation} is in force on every node"
    _result(site, drawn, as_json, said)


def events(
    cluster: Cluster,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more happens.")] = False,
    as_json: Json = False,
) -> None:
    """Tell what happened to a cluster and its nodes, oldest first; --follow ends when the cluster is gone."""
    terminal, site = Terminal(), here()
    row = site.ledger.cluster(cluster)
    last = 0
    with until_interrupted():
        while True:
            for e in site.ledger.events(cluster, last):
                last = e.number
                if as_json:
                    terminal.line(asdict(e))
                else:
                    terminal.say(f"{e.time[:19]}  {e.node or cluster:<12}  {e.what}")
            if not follow:
                return
            if site.ledger.created(cluster) != row.created:
                terminal.error(f"{cluster} is gone")
                return
            time.sleep(LOOK)


LOOK = 0.5
"""Seconds between looks at the ledger."""


class EndedByHand(SystemExit):
    """Ctrl-C where it is the way to end: the status says so, and nothing is left to go on with."""


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C within it is the way to end, and no failure to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        raise EndedByHand(130) from None
