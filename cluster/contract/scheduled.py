"""A change of guarantees that is agreed now and made later: its time, whether there will be room, what is due. Pure.

A scheduled change holds no room until its time: it is admitted against what is promised now and what is scheduled, and
again when it is made. What it must never do is take the room of another that was scheduled before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from builder import units
from builder.errors import InputError, NoRoom, Problem, shown
from cluster.contract import asked
from cluster.contract.terms import Intent
from cluster.domain import Mark
from cluster.guarantee import Guarantee
from cluster.hosts.host import Host
from cluster.place import Room, admit, left

State = Literal["waiting", "done", "refused", "failed", "superseded", "cancelled", "lost"]
EXAMPLE = "write it as in 2026-12-01T14:30+01:00, 14:30 (today, local) or +15m"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A change that waits for its time, or what became of it.

    number   0 until the ledger has given it one
    node     "" for all nodes of the role
    words    KEY=VALUE, as they were written
    at       UTC, ISO 8601 in seconds, so that texts sort as times do
    restart  whether nodes may boot again for it
    asked    when it was scheduled, UTC
    ended    when it came to its end, UTC; "" while it waits
    why      the reason of an end that is not "done"; while it waits, why it could not be made yet
    """

    number: int
    cluster: str
    role: str
    node: str
    words: tuple[str, ...]
    at: str
    restart: bool
    asked: str
    state: State = "waiting"
    ended: str = ""
    why: str = ""

    @property
    def whom(self) -> str:
        return f"{self.cluster}/{self.node or self.role}"

    @property
    def late(self) -> int:
        """Whole seconds between its time and its end; 0 while it waits, and for one that ended before its time."""
        if not self.ended:
            return 0
        over = datetime.datetime.fromisoformat(self.ended) - datetime.datetime.fromisoformat(
            self.at
        )
        return max(0, int(over.total_seconds()))

    def covers(self, other: Scheduled) -> bool:
        """Whether nothing would be left of `other` after this one."""
        same = (self.cluster, self.role) == (other.cluster, other.role)
        fields = asked.asked(other.words).keys() <= asked.asked(self.words).keys()
        return same and self.node in ("", other.node) and fields


def written(at: datetime.datetime) -> str:
    """A time as the ledger keeps it."""
    return at.astimezone(datetime.UTC).isoformat(timespec="seconds")


def moment(
    text: str, now: datetime.datetime, zone: datetime.tzinfo | None = None
) -> datetime.datetime:
    """The time that `--at` means. InputError unless it can be read and lies ahead of `now`.

    text  ISO 8601 with its zone or in local time, HH:MM of today, or + and a duration
    zone  what local is; the machine's own if None

    >>> noon = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
    >>> [moment(t, noon, datetime.UTC).isoformat() for t in ("+15m", "14:30")]
    ['2026-12-01T12:15:00+00:00', '2026-12-01T14:30:00+00:00']
    """
    try:
        at = _read(text.strip(), now, zone)
    except (ValueError, OverflowError):
        raise InputError(Problem("--at", f"{shown(text)} is not a time", EXAMPLE)) from None
    if at <= now:
        what = (
            f"{shown(text)} is past: now it is {now.astimezone(zone).isoformat(timespec='seconds')}"
        )
        raise InputError(
            Problem("--at", what, "name a later time, or leave --at out to do it at once")
        )
    return at


def _read(text: str, now: datetime.datetime, zone: datetime.tzinfo | None) -> datetime.datetime:
    """ValueError, OverflowError for what is no time."""
    if text.startswith("+"):
        return now + datetime.timedelta(seconds=units.duration(text[1:]))
    if len(text) <= len("14:30:00"):
        today = now.astimezone(zone).date()
        time = datetime.time.fromisoformat(text)
        if ":" not in text:
            raise ValueError(text)
        local = datetime.datetime.combine(today, time)
    else:
        if ":" not in text:
            raise ValueError(text)
        local = datetime.datetime.fromisoformat(text)
    if local.tzinfo is not None:
        return local.astimezone(datetime.UTC)
    there = local.replace(tzinfo=zone) if zone else local.astimezone()
    at = there.astimezone(datetime.UTC)
    if at.astimezone(zone).replace(tzinfo=None) != local:
        raise ValueError(text)  # a clock that is set forward never shows it
    return at


def in_order(changes: Iterable[Scheduled]) -> list[Scheduled]:
    """By time; of one time, in the order in which they were asked for. One without a number was asked for last."""
    return sorted(changes, key=lambda c: (c.at, c.number == 0, c.number))


def due(changes: Iterable[Scheduled], now: datetime.datetime) -> list[Scheduled]:
    """Those that wait and whose time has come, in the order in which they are to be made."""
    return in_order(c for c in changes if c.state == "waiting" and c.at <= written(now))


def superseded(changes: Sequence[Scheduled]) -> dict[int, int]:
    """Number of each due change that a later one of them leaves nothing of -> number of that one."""
    found = {}
    for n, change in enumerate(changes):
        over = [later.number for later in changes[n + 1 :] if later.covers(change)]
        if over:
            found[change.number] = over[-1]
    return found


def foreseen(
    host: Host,
    marks: Iterable[Mark],
    intents: Iterable[Intent],
    waiting: Iterable[Scheduled],
    new: Scheduled,
) -> list[tuple[str, Guarantee, Guarantee]]:
    """(node, before, after) of what `new` will change at its time, as far as that is known now.

    marks    of all domains that share the host's machine
    waiting  all that is scheduled, elsewhere too
    Raises InputError for numbers that would not fit together then; NoRoom if the host would not have it then, or would
    not have any longer what was scheduled before.
    """
    there, open_, others = list(marks), tuple(intents), list(waiting)
    fits = {c.number for c, _, why in _walk(host, there, open_, others) if why is None}
    moves: list[tuple[str, Guarantee, Guarantee]] = []
    for change, found, why in _walk(host, there, open_, [*others, new]):
        if change == new:
            if why is not None:
                raise why
            moves = found
        elif isinstance(why, NoRoom) and change.number in fits:
            what = f"{new.whom} would take the room of change {change.number} ({change.whom} at {change.at})"
            raise NoRoom(what, f"{why.hint} then; cancel that one first: phx scheduled --cancel")
    return moves


def _walk(
    host: Host, marks: list[Mark], intents: Iterable[Intent], changes: Iterable[Scheduled]
) -> Iterable[tuple[Scheduled, list[tuple[str, Guarantee, Guarantee]], InputError | NoRoom | None]]:
    """Each change in its turn: what it does to nodes that are there, and why it would be refused."""
    for change in in_order(changes):
        wanted = asked.asked(change.words)
        moves, problems, after = [], [], []
        for mark in marks:
            if (mark.cluster, mark.role) == (change.cluster, change.role) and change.node in (
                "",
                mark.node,
            ):
                given, wrong = asked.changed(mark.node, mark.guarantee, wanted)
                problems += wrong
                moves.append((mark.node, mark.guarantee, given))
                mark = replace(mark, guarantee=given)
            after.append(mark)
        if problems:
            yield change, moves, InputError(problems)
            continue
        try:
            admit(left(Room.of(host), marks, intents), moves)
        except NoRoom as cause:
            yield change, moves, cause
            continue
        marks = after
        yield change, moves, None
