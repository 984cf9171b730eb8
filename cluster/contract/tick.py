"""Scheduled changes: admitted when they are asked for, made when their time has come, each with an end in the record.

Nobody stands by: `phx tick` makes what is due, and so does every phx that is about to change the cluster. One of them
at a time does it, and a change that was cut off is made again by the next: a change that is in force costs nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from builder.errors import (
    EnvironmentLacks,
    InputError,
    NoRoom,
    PhiloxeniaError,
    Problem,
    WorkFailed,
    explain,
)
from builder.plan import Report
from cluster import occupancy
from cluster.contract import asked, renegotiate
from cluster.contract.enforce import Change
from cluster.contract.renegotiate import Whom
from cluster.contract.scheduled import Scheduled, State, due, foreseen, superseded, written
from cluster.site import Site

LOCK = "tick"
PATIENCE = datetime.timedelta(hours=1)
"""How long a change waits for a host that does not answer."""


def schedule(
    site: Site, whom: Whom, words: tuple[str, ...], at: datetime.datetime, now: datetime.datetime,
    restart: bool, report: Report,
) -> Scheduled:  # fmt: skip
    """Keep a change for its time, admitted as far as can be known now.

    Raises InputError, NoRoom with what would be left then, EnvironmentLacks.
    """
    wanted: Mapping[str, int] = asked.asked(words)
    new = Scheduled(0, whom.cluster, whom.role, whom.node, words, written(at), restart, written(now))  # fmt: skip
    with site.locked("launch", report):
        row = site.ledger.cluster(whom.cluster)
        host = site.ledger.host(row.host)
        marks = occupancy.marks(site, host)
        waiting = site.ledger.diary.waiting()
        moves = foreseen(host, marks, site.ledger.papers.intents(), waiting, new)
        changes = [Change(*move) for move in moves]
        with occupancy.connected(site, host) as (hypervisor, _):
            seen = {s.mark.node: s for s in hypervisor.observe() if s.mark.cluster == row.name}
        renegotiate.permitted(site, host, whom, changes, wanted, seen, restart)
        return site.ledger.diary.add(new)


def tick(site: Site, now: datetime.datetime, report: Report, cluster: str = "") -> list[Scheduled]:
    """Make what is due, of one cluster or with "" of all; each that came to an end, in the order in which it did.

    A change that cannot be made stops no other: its reason is kept.
    """
    if not due(site.ledger.diary.waiting(cluster), now):
        return []
    ended = []
    with site.locked(LOCK, report):
        todo = due(site.ledger.diary.waiting(cluster), now)  # another may have done it meanwhile
        over = superseded(todo)
        for change in todo:
            if change.number in over:
                end: tuple[State, str] | None = "superseded", f"by change {over[change.number]}"
            else:
                end = _make(site, change, now, report)
            if end is None:
                continue
            state, why = end
            time = written(max(now, datetime.datetime.now(datetime.UTC)))
            site.ledger.diary.end(change.number, state, time, why)
            done = next(c for c in site.ledger.diary.all(change.cluster) if c.number == change.number)  # fmt: skip
            ended.append(done)
            site.ledger.note(change.cluster, change.node, _told(done))
            report(f"{change.whom}: {_told(done)}")
    return ended


def cancel(site: Site, number: int, now: datetime.datetime, report: Report) -> Scheduled:
    """End a change that waits. InputError if there is none of that number, or it has an end already."""
    with site.locked(LOCK, report):
        known = {c.number: c for c in site.ledger.diary.all()}
        found = known.get(number)
        if found is None or found.state != "waiting":
            what = (
                f"no change {number} is scheduled"
                if found is None
                else f"change {number} is {found.state}"
            )
            raise InputError(
                Problem("--cancel", what, "phx scheduled shows what waits, with its number")
            )
        site.ledger.diary.end(number, "cancelled", written(now))
        site.ledger.note(found.cluster, found.node, f"scheduled change {number} cancelled")
        return next(c for c in site.ledger.diary.all(found.cluster) if c.number == number)


def _make(
    site: Site, change: Scheduled, now: datetime.datetime, report: Report
) -> tuple[State, str] | None:
    """Its end and the reason; None when it has to wait on."""
    try:
        whom = renegotiate.addressed(site, change.whom)
        wanted = asked.asked(change.words)
        renegotiate.renegotiate(site, whom, wanted, change.restart, report)
    except EnvironmentLacks as cause:
        said = _reason(cause)
        if now - datetime.datetime.fromisoformat(change.at) > PATIENCE:
            return "lost", said
        site.ledger.diary.delay(change.number, said)
        report(f"{change.whom}: scheduled change {change.number} waits: {said}")
        return None
    except (InputError, NoRoom) as cause:
        return "refused", _reason(cause)
    except WorkFailed as cause:
        return "failed", _reason(cause)
    return "done", ""


def _reason(error: PhiloxeniaError) -> str:
    return " ".join(explain(error).removeprefix("error: ").split())


def _told(change: Scheduled) -> str:
    late = f", {change.late} s late" if change.late else ""
    why = f": {change.why}" if change.why else ""
    return f"scheduled change {change.number} ({' '.join(change.words)}) {change.state}{late}{why}"
