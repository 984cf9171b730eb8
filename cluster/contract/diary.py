"""Scheduled changes in the ledger: those that wait, and what became of the others; and what guests asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection

from cluster.contract.negotiable import Asked
from cluster.contract.scheduled import Scheduled, State, in_order

TABLES = MetaData()
_changes = Table(
    "scheduled", TABLES,
    Column("number", Integer, primary_key=True),
    *(Column(name, String, nullable=False) for name in ("cluster", "role", "node", "words", "at")),
    Column("restart", Integer, nullable=False),
    *(Column(name, String, nullable=False) for name in ("asked", "state", "ended", "why")),
    sqlite_autoincrement=True,
)  # fmt: skip
"""Numbers are never given twice: whoever cancels one means that one."""
_requests = Table(
    "request", TABLES,
    *(Column(name, String, primary_key=True) for name in ("cluster", "node", "name")),
    *(Column(name, String, nullable=False) for name in ("words", "time")),
    Column("granted", Integer, nullable=False),
    Column("said", String, nullable=False),
)  # fmt: skip
KEPT = 20
"""Answers that are remembered of a node: a guest that asks without end fills no disk."""


class Diary:
    """Every method is one transaction."""

    def __init__(self, sql: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._sql = sql

    def all(self, cluster: str = "") -> list[Scheduled]:
        """Of a cluster, or with "" of all, those that have ended too, by time."""
        return self._changes(cluster)

    def waiting(self, cluster: str = "") -> list[Scheduled]:
        return self._changes(cluster, _changes.c.state == "waiting")

    def _changes(self, cluster: str, *of: ColumnElement[bool]) -> list[Scheduled]:
        wanted = select(_changes).where(*of)
        if cluster:
            wanted = wanted.where(_changes.c.cluster == cluster)
        with self._sql() as sql:
            return in_order(_change(dict(row)) for row in sql.execute(wanted).mappings())

    def add(self, change: Scheduled) -> Scheduled:
        """The change with its number."""
        values = {**asdict(change), "words": json.dumps(change.words), "restart": int(change.restart)}  # fmt: skip
        del values["number"]
        with self._sql() as sql:
            made = sql.execute(insert(_changes).values(**values)).inserted_primary_key
        assert made is not None
        return replace(change, number=made[0])

    def end(self, number: int, state: State, ended: str, why: str = "") -> bool:
        """Write down the end of one that waits; False, and nothing is written, if it had an end."""
        of = and_(_changes.c.number == number, _changes.c.state == "waiting")
        with self._sql() as sql:
            told = update(_changes).where(of).values(state=state, ended=ended, why=why)
            return sql.execute(told).rowcount == 1

    def delay(self, number: int, why: str) -> None:
        """It waits on, since it could not be made yet."""
        of = and_(_changes.c.number == number, _changes.c.state == "waiting")
        with self._sql() as sql:
            sql.execute(update(_changes).where(of).values(why=why))

    def requests(self, cluster: str) -> list[Asked]:
        """What its guests asked for lately, by time."""
        wanted = select(_requests).where(_requests.c.cluster == cluster)
        with self._sql() as sql:
            rows = sql.execute(wanted.order_by(_requests.c.time, _requests.c.name)).mappings()
            return [_asked(dict(row)) for row in rows]

    def answer(self, answered: Asked) -> None:
        """Remember an answer; the oldest of its node go."""
        of = and_(_requests.c.cluster == answered.cluster, _requests.c.node == answered.node)
        values = asdict(answered)
        values |= {"words": json.dumps(answered.words), "granted": int(answered.granted)}
        with self._sql() as sql:
            sql.execute(insert(_requests).values(**values))
            newest = (
                select(_requests.c.name).where(of).order_by(_requests.c.time.desc()).limit(KEPT)
            )
            sql.execute(delete(_requests).where(of, _requests.c.name.not_in(newest)))


def lose(sql: Connection, cluster: str, ended: str) -> None:
    """What waits for a cluster that goes is lost with it, as part of a transaction; the record of it stays."""
    of = and_(_changes.c.cluster == cluster, _changes.c.state == "waiting")
    why = "the cluster was removed"
    sql.execute(update(_changes).where(of).values(state="lost", ended=ended, why=why))
    sql.execute(delete(_requests).where(_requests.c.cluster == cluster))


def _change(row: dict[str, object]) -> Scheduled:
    words = tuple(json.loads(str(row["words"])))
    return Scheduled(**{**row, "words": words, "restart": bool(row["restart"])})  # type: ignore[arg-type]


def _asked(row: dict[str, object]) -> Asked:
    words = tuple(json.loads(str(row["words"])))
    return Asked(**{**row, "words": words, "granted": bool(row["granted"])})  # type: ignore[arg-type]
