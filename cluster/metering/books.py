"""The account's tables in the ledger, which outlive the clusters that they tell of.

holding  one row for each change of what a node holds
used     one row for each node, owner and hour: what was seen to be used in it
meter    a node's counters when somebody last looked, from which the next look goes on
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection, RowMapping

from cluster.guarantee import Guarantee
from cluster.metering.account import Holding, Used, Whose, hold
from cluster.metering.usage import COUNTERS, Usage, grown

TABLES = MetaData()
_holdings = Table(
    "holding", TABLES,
    Column("number", Integer, primary_key=True),
    Column("time", String, nullable=False),
    Column("cluster", String, nullable=False, index=True),
    Column("owner", String, nullable=False),
    Column("node", String, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("cpu", "memory", "network", "disk")),
)  # fmt: skip
_KEPT = ("cpu", "received", "sent", "read", "written")
_used = Table(
    "used", TABLES,
    *(Column(name, String, primary_key=True) for name in ("cluster", "owner", "node", "hour")),
    *(Column(name, BigInteger, nullable=False) for name in _KEPT),
)  # fmt: skip
_meters = Table(
    "meter", TABLES,
    Column("cluster", String, primary_key=True),
    Column("node", String, primary_key=True),
    Column("run", BigInteger, nullable=False),
    *(Column(name, BigInteger) for name in COUNTERS),
)  # fmt: skip


class Books:
    """What is held and used, written down. Every method is one transaction."""

    def __init__(self, sql: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._sql = sql

    def hold(
        self, cluster: str, owner: str, nodes: Mapping[str, Guarantee], at: datetime.datetime | None = None
    ) -> None:  # fmt: skip
        """From now on the cluster's nodes hold this. Writes what is another than before; others of it stay."""
        self._change(
            hold(cluster, owner, node, given, at or _now()) for node, given in nodes.items()
        )

    def release(
        self, cluster: str, nodes: Collection[str] | None = None, at: datetime.datetime | None = None
    ) -> None:  # fmt: skip
        """From now on these nodes hold nothing; without `nodes` all of the cluster's. Silent when they do not."""
        with self._sql() as sql:
            held = {h.node: h for h in _last(sql, cluster) if nodes is None or h.node in nodes}
            _write(
                sql,
                [
                    Holding(at or _now(), cluster, h.owner, h.node)
                    for h in held.values()
                    if not h.released
                ],
            )
            gone = _meters.c.cluster == cluster
            sql.execute(
                delete(_meters).where(gone if nodes is None else gone & _meters.c.node.in_(nodes))
            )

    def _change(self, wanted: Iterable[Holding]) -> None:
        wanted = list(wanted)
        with self._sql() as sql:
            now = {
                (h.cluster, h.node): h for c in {w.cluster for w in wanted} for h in _last(sql, c)
            }
            _write(sql, [w for w in wanted
                         if (w.cluster, w.node) not in now or now[w.cluster, w.node].what != w.what])  # fmt: skip

    def holdings(self) -> list[Holding]:
        """Every change, oldest first."""
        with self._sql() as sql:
            return [
                _holding(r)
                for r in sql.execute(select(_holdings).order_by(_holdings.c.number)).mappings()
            ]

    def observe(
        self, owners: Mapping[str, str], usages: Iterable[Usage], at: datetime.datetime | None = None
    ) -> None:  # fmt: skip
        """Add to each node's hour what it used since somebody last looked.

        owners  cluster -> owner; what is of no cluster in it is left out
        """
        hour = _hour(at or _now())
        with self._sql() as sql:
            for u in usages:
                owner = owners.get(u.mark.cluster)
                if owner is None:
                    continue
                of = (_meters.c.cluster == u.mark.cluster, _meters.c.node == u.mark.node)
                row = sql.execute(select(_meters).where(*of)).mappings().first()
                more = grown(_then(u, row) if row else None, u)
                sql.execute(delete(_meters).where(*of))
                sql.execute(insert(_meters).values(
                    cluster=u.mark.cluster, node=u.mark.node, run=u.run, **{c: getattr(u, c) for c in COUNTERS}
                ))  # fmt: skip
                _add(sql, {"cluster": u.mark.cluster, "owner": owner, "node": u.mark.node, "hour": hour},
                     {name: more[name] or 0 for name in _KEPT})  # fmt: skip

    def used(self, since: datetime.datetime, until: datetime.datetime) -> dict[Whose, Used]:
        """What was seen to be used in the hours that [since, until) touches."""
        c = _used.c
        sums = [func.sum(c[name]).label(name) for name in _KEPT]
        end = until.astimezone(datetime.UTC).isoformat()
        wanted = select(c.cluster, c.owner, *sums).where(c.hour >= _hour(since), c.hour < end)
        with self._sql() as sql:
            rows = sql.execute(wanted.group_by(c.cluster, c.owner)).mappings().all()
        return {
            (r["cluster"], r["owner"]): Used(
                int(r["cpu"]) / 1e9, *(int(r[name]) for name in _KEPT[1:])
            )
            for r in rows
        }


def _add(sql: Connection, at: dict[str, str], counts: dict[str, int]) -> None:
    here = [_used.c[name] == value for name, value in at.items()]
    more = {name: _used.c[name] + count for name, count in counts.items()}
    if not sql.execute(update(_used).where(*here).values(more)).rowcount:
        sql.execute(insert(_used).values(**at, **counts))


def _last(sql: Connection, cluster: str) -> list[Holding]:
    """The newest holding of each node that the cluster ever had."""
    c = _holdings.c
    newest = select(func.max(c.number)).where(c.cluster == cluster).group_by(c.node)
    return [
        _holding(r) for r in sql.execute(select(_holdings).where(c.number.in_(newest))).mappings()
    ]


def _write(sql: Connection, holdings: list[Holding]) -> None:
    if holdings:
        sql.execute(insert(_holdings), [
            {"time": h.time.isoformat(), **{n: getattr(h, n) for n in ("cluster", "node", "owner", "cpu", "memory",
                                                                      "network", "disk")}}
            for h in holdings
        ])  # fmt: skip


def _holding(row: RowMapping) -> Holding:
    told: Any = {k: v for k, v in row.items() if k not in ("number", "time")}
    return Holding(time=datetime.datetime.fromisoformat(row["time"]), **told)


def _then(now: Usage, row: RowMapping) -> Usage:
    """The usage that a meter remembers."""
    return Usage(
        now.name, now.mark, row["run"], memory=0, memory_limit=0, **{c: row[c] for c in COUNTERS}
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _hour(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).replace(minute=0, second=0, microsecond=0).isoformat()
