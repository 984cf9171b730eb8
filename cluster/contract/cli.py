"""`phx set`, `scheduled`, `tick`, `guarantees`: what running nodes are promised, changed by agreement and read back."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli import Json
from builder.terminal import Terminal
from cluster.hosts.cli import here

if TYPE_CHECKING:
    from cluster.contract.negotiable import Asked
    from cluster.contract.scheduled import Scheduled

HEADS = ("NODE", "RESOURCE", "ASKED", "GRANTED", "IN FORCE", "", "VIOLATIONS")


def register(app: typer.Typer) -> None:
    app.command("set")(set_)
    app.command("guarantees")(guarantees)
    app.command("scheduled")(scheduled)
    app.command("tick")(tick_)


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
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Later: 14:30, +15m, 2026-12-01T14:30+01:00."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what running nodes are promised: all of it at once, while they run, or nothing."""
    from cluster.contract import asked, renegotiate, tick

    terminal, site = Terminal(), here()
    if at is not None:
        change = _schedule(site, whom, words, at, restart, terminal)
        if as_json:
            terminal.json(_scheduled(change))
        else:
            terminal.say(
                f"change {change.number} of {change.whom} is scheduled for {_local(change.at)}"
            )
        return
    wanted = asked.asked(words)
    found = renegotiate.addressed(site, whom)
    tick.tick(site, _now(), terminal.report, found.cluster)
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
    requests = site.ledger.diary.requests(cluster)
    if as_json:
        terminal.json([
            {**asdict(x), "requests": [asdict(a) for a in requests if a.node == x.node]} for x in lines
        ])  # fmt: skip
    else:
        marks = {True: "ok", False: "VIOLATED", None: "-"}
        terminal.table(HEADS, [
            (x.node, x.resource, x.asked, x.granted, x.measured, marks[x.ok],
             f"{x.violations}, last {x.violated}" if x.violations else "none")
            for x in lines
        ])  # fmt: skip
        if requests:
            _answers(requests, terminal)
    if any(i.cluster == cluster for i in site.ledger.papers.intents()):
        terminal.report(
            "a change is under way or was cut off: the next phx set or phx up settles it"
        )
    waiting = site.ledger.diary.waiting(cluster)
    if waiting:
        next_ = f"the next at {_local(waiting[0].at)}"
        terminal.report(f"scheduled changes: {len(waiting)}, {next_}: phx scheduled {cluster}")
    if any(line.ok is False for line in lines):
        terminal.report(f"phx up with the file of {cluster} sets again what is not in force")
        raise typer.Exit(1)


def _schedule(
    site: Any, whom: str, words: list[str], at: str, restart: bool, terminal: Terminal
) -> Scheduled:
    """InputError with all that is wrong with words and time at once."""
    from builder.errors import InputError, Problem
    from cluster.contract import asked, renegotiate, tick
    from cluster.contract.scheduled import moment

    now, time = _now(), None
    problems: list[Problem] = []
    try:
        time = moment(at, now)
    except InputError as cause:
        problems += cause.problems
    try:
        asked.asked(words)
    except InputError as cause:
        problems += cause.problems
    if problems or time is None:
        raise InputError(problems)
    found = renegotiate.addressed(site, whom)
    tick.tick(site, now, terminal.report, found.cluster)
    return tick.schedule(site, found, tuple(words), time, now, restart, terminal.report)


def scheduled(
    cluster: Annotated[
        str, typer.Argument(metavar="[CLUSTER]", help="Of this cluster only.", show_default=False)
    ] = "",
    cancel: Annotated[
        int | None, typer.Option("--cancel", metavar="NUMBER", help="Take back the one of it.")
    ] = None,
    ended: Annotated[
        bool, typer.Option("--all", help="Those that came to an end too, and how.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the changes that wait for their time (`phx set --at`), or take one back."""
    from cluster.contract import tick
    from cluster.contract.scheduled import due

    terminal, site = Terminal(), here()
    if cancel is not None:
        change = tick.cancel(site, cancel, _now(), terminal.report)
        if as_json:
            terminal.json(_scheduled(change))
        else:
            terminal.say(f"change {change.number} of {change.whom} is cancelled")
        return
    known = site.ledger.diary.all(cluster)
    if cluster and not known:
        # One that is gone may still have a record; any other name is a mistake.
        site.ledger.cluster(cluster)
    found = [c for c in known if ended or c.state == "waiting"]
    if as_json:
        terminal.json([_scheduled(c) for c in found])
    elif not found:
        terminal.say("nothing is scheduled")
    else:
        _table(found, terminal)
    if late := due(found, _now()):
        terminal.report(f"due: {len(late)} of them; phx tick makes them")


def tick_(
    every: Annotated[
        str, typer.Option("--every", metavar="DURATION", help="Again and again, as in 5s.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Make the changes whose time has come, and answer guests that ask.

    For a timer (cron, systemd), or with --every as a service; two at once do no harm. Exit code 1 if a change could not
    be made.
    """
    import time

    from builder import units
    from builder.errors import InputError, Problem
    from cluster.contract import requests, tick

    pause = 0
    if every:
        try:
            pause = units.duration(every)
        except ValueError as cause:
            what, _, hint = str(cause).partition("; ")
            raise InputError(Problem("--every", what, hint)) from None
    terminal, site = Terminal(), here()
    while True:
        done = tick.tick(site, _now(), terminal.report)
        if done and not as_json:
            _table(done, terminal)
        answers = requests.answer(site, _now(), terminal.report)
        if as_json and (done or answers or not pause):
            changes = [_scheduled(c) for c in done]
            terminal.line({"changes": changes, "requests": [asdict(a) for a in answers]})
        elif answers and not as_json:
            _answers(answers, terminal)
        if not pause:
            break
        time.sleep(pause)
    if any(c.state in ("refused", "failed", "lost") for c in done):
        raise typer.Exit(1)


def _table(changes: list[Scheduled], terminal: Terminal) -> None:
    terminal.table(("NUMBER", "FOR", "CHANGE", "AT", "STATE", ""), [
        (c.number, c.whom, " ".join((*c.words, *(["--restart"] if c.restart else []))), _local(c.at),
         c.state + (f", {c.late} s late" if c.late else ""), c.why)
        for c in changes
    ])  # fmt: skip


def _answers(found: list[Asked], terminal: Terminal) -> None:
    rows = [
        (a.node, " ".join(a.words), _local(a.time), "granted" if a.granted else "refused", a.said)
        for a in found
    ]
    terminal.table(("NODE", "ASKED FROM INSIDE", "AT", "ANSWER", ""), rows)


def _scheduled(change: Scheduled) -> dict[str, object]:
    return {**asdict(change), "for": change.whom, "late": change.late}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _local(at: str) -> str:
    """A time with the zone of whoever reads it."""
    return datetime.datetime.fromisoformat(at).astimezone().isoformat(timespec="seconds")
