"""`phx set` and `phx guarantees`: what running nodes are promised, changed by agreement and read back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from builder.cli import Json
from builder.terminal import Terminal
from cluster.hosts.cli import here

HEADS = ("NODE", "RESOURCE", "ASKED", "GRANTED", "IN FORCE", "", "VIOLATIONS")


def register(app: typer.Typer) -> None:
    app.command("set")(set_)
    app.command("guarantees")(guarantees)


def set_(
    whom: Annotated[
        str, typer.Argument(metavar="CLUSTER/ROLE|CLUSTER/NODE|NODE", help="Who shall have it.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="As in cpu.guarantee=0.75 network.limit=50Mbit."
        ),
    ],
    restart: Annotated[
        bool, typer.Option("--restart", help="Let nodes boot again where they have to.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change what running nodes are promised: all of it at once, while they run, or nothing."""
    from cluster.contract import asked, renegotiate

    wanted = asked.asked(words)
    terminal, site = Terminal(), here()
    found = renegotiate.addressed(site, whom)
    outcome = renegotiate.renegotiate(site, found, wanted, restart, terminal.report)
    if as_json:
        changes = [
            {"node": c.node, "before": asdict(c.before), "after": asdict(c.after)}
            for c in outcome.changes
        ]
        terminal.json({"for": str(found), "restarted": list(outcome.restarted), "changes": changes})
    elif outcome.changes:
        rows = [
            (c.node, *told.split(" ", 1), "booted again" if c.node in outcome.restarted else "while it ran")
            for c in outcome.changes
            for told in asked.told(c.before, c.after)
        ]  # fmt: skip
        terminal.table(("NODE", "KEY", "CHANGE", "HOW"), rows)
    else:
        terminal.say(f"{found} has that already")


def guarantees(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")],
    as_json: Json = False,
) -> None:
    """Show every promise beside what is in force of it now, read back; exit code 1 if something else is."""
    from cluster.contract import proof

    terminal, site = Terminal(), here()
    lines = proof.look(site, cluster)
    if as_json:
        terminal.json([asdict(line) for line in lines])
    else:
        marks = {True: "ok", False: "VIOLATED", None: "-"}
        terminal.table(HEADS, [
            (x.node, x.resource, x.asked, x.granted, x.measured, marks[x.ok],
             f"{x.violations}, last {x.violated}" if x.violations else "none")
            for x in lines
        ])  # fmt: skip
    if any(i.cluster == cluster for i in site.ledger.papers.intents()):
        terminal.report(
            "a change is under way or was cut off: the next phx set or phx up settles it"
        )
    if any(line.ok is False for line in lines):
        terminal.report(f"phx up with the file of {cluster} sets again what is not in force")
        raise typer.Exit(1)
