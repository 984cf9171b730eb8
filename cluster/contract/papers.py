"""The contract's tables in the ledger: terms that were agreed, changes that are under way, what was last read back.

term    see `Term`
intent  a node's guarantee before and after a change that has begun
proof   one row for each node and resource: what was granted, what was in force when somebody last looked
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from sqlalchemy import (
    BigInteger,
    Column,
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

from cluster.contract.terms import Intent, Term
from cluster.guarantee import Guarantee

TABLES = MetaData()
_terms = Table(
    "term", TABLES,
    *(Column(name, String, primary_key=True) for name in ("cluster", "role", "node", "field")),
    Column("value", BigInteger, nullable=False),
    Column("file", BigInteger, nullable=False),
    Column("time", String, nullable=False),
)  # fmt: skip
_intents = Table(
    "intent", TABLES,
    *(Column(name, String, primary_key=True) for name in ("cluster", "node")),
    Column("before", String, nullable=False),
    Column("after", String, nullable=False),
    Column("agreed", Integer, nullable=False),
)  # fmt: skip
_proofs = Table(
    "proof", TABLES,
    *(Column(name, String, primary_key=True) for name in ("cluster", "node", "resource")),
    *(Column(name, String, nullable=False) for name in ("granted", "mechanism", "measured", "time")),
    Column("violations", Integer, nullable=False),
    Column("violated", String, nullable=False),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proof:
    """One resource of one node. `time` is of the last look, `violated` of the last that saw something else in force."""

    node: str
    resource: str
    granted: str
    mechanism: str
    measured: str
    time: str
    violations: int = 0
    violated: str = ""


class Papers:
    """Terms, intents and proofs. Every method is one transaction."""

    def __init__(self, sql: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._sql = sql

    def terms(self, cluster: str) -> tuple[Term, ...]:
        fields = [_terms.c[name] for name in Term.__slots__]
        with self._sql() as sql:
            rows = sql.execute(select(*fields).where(_terms.c.cluster == cluster)).mappings()
            return tuple(Term(**row) for row in rows)

    def intents(self) -> tuple[Intent, ...]:
        """Of all clusters: a host's room is one."""
        with self._sql() as sql:
            rows = sql.execute(select(_intents).order_by(_intents.c.cluster, _intents.c.node))
            return tuple(
                Intent(r.cluster, r.node, _read(r.before), _read(r.after), bool(r.agreed)) for r in rows
            )  # fmt: skip

    def begin(self, intents: Iterable[Intent]) -> None:
        """Write down what is about to be changed."""
        rows = [
            {"cluster": i.cluster, "node": i.node, "before": _write(i.before), "after": _write(i.after), "agreed": 0}
            for i in intents
        ]  # fmt: skip
        with self._sql() as sql:
            if rows:
                sql.execute(insert(_intents), rows)

    def agree(self, cluster: str, terms: Iterable[Term] | None = None) -> None:
        """Now the cluster's changes hold, and with them these terms instead of those before."""
        with self._sql() as sql:
            if terms is not None:
                sql.execute(delete(_terms).where(_terms.c.cluster == cluster))
                rows = [{"cluster": cluster, **asdict(term)} for term in terms]
                if rows:
                    sql.execute(insert(_terms), rows)
            sql.execute(update(_intents).where(_intents.c.cluster == cluster).values(agreed=1))

    def end(self, cluster: str) -> None:
        """The cluster's changes are finished, or taken back."""
        with self._sql() as sql:
            sql.execute(delete(_intents).where(_intents.c.cluster == cluster))

    def proofs(self, cluster: str) -> dict[tuple[str, str], Proof]:
        """By (node, resource)."""
        fields = [_proofs.c[name] for name in Proof.__slots__]
        with self._sql() as sql:
            rows = sql.execute(select(*fields).where(_proofs.c.cluster == cluster)).mappings()
            found = [Proof(**row) for row in rows]
        return {(p.node, p.resource): p for p in found}

    def prove(self, cluster: str, proofs: Iterable[Proof]) -> None:
        """Keep these instead of all that was kept of the cluster."""
        rows = [{"cluster": cluster, **asdict(proof)} for proof in proofs]
        with self._sql() as sql:
            sql.execute(delete(_proofs).where(_proofs.c.cluster == cluster))
            if rows:
                sql.execute(insert(_proofs), rows)


def forget(sql: Connection, cluster: str, nodes: Collection[str] | None = None) -> None:
    """Drop what is kept of a cluster, or of some of its nodes, as part of a transaction."""
    for table in (_terms, _intents, _proofs):
        of = table.c.cluster == cluster
        sql.execute(delete(table).where(of if nodes is None else and_(of, table.c.node.in_(nodes))))


def _write(given: Guarantee) -> str:
    return json.dumps(asdict(given))


def _read(text: str) -> Guarantee:
    return Guarantee(**json.loads(text))
