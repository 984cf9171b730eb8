"""What must be remembered between commands, and the only door to SQL: hosts, clusters, their nodes' last reports.

The truth about guests is in the hypervisor; the ledger holds what it cannot know: each cluster's secret and file,
which host it is on, what was promised, what its nodes last said. SQLite here, in a file that only its owner reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection

from builder.errors import EnvironmentLacks, InputError, Problem, close
from cluster.hosts.host import Host
from cluster.spec import natural
from contextualize.identity import Secret

_tables = MetaData()
_hosts = Table(
    "host",
    _tables,
    Column("name", String, primary_key=True),
    Column("told", String, nullable=False),
)
_clusters = Table(
    "cluster", _tables,
    Column("name", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("network", String, nullable=False),
    Column("spec", String, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("created", String, nullable=False),
)  # fmt: skip
_nodes = Table(
    "node", _tables,
    Column("cluster", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("address", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("boot", String, nullable=False),
    Column("uptime", Float, nullable=False),
    Column("message", String, nullable=False),
)  # fmt: skip
_schema = Table("schema", _tables, Column("version", Integer, primary_key=True))
VERSION = 1


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster as launched. `spec` is the text of its file, `created` UTC."""

    name: str
    host: str
    network: str
    spec: str
    secret: Secret
    created: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node and what it last said. `stage` is defined until it says more; `uptime` of that report."""

    cluster: str
    name: str
    role: str
    address: str
    stage: str = "defined"
    boot: str = ""
    uptime: float = 0.0
    message: str = ""


class Ledger:
    """One file. Every method is one transaction; two processes may use it at once."""

    def __init__(self, home: Path) -> None:
        path = home / "ledger.sqlite"
        try:
            home.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except PermissionError as cause:
            raise EnvironmentLacks(f"{path} is another user's", "run phx with sudo") from cause
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

        @event.listens_for(self._engine, "connect")
        def _settle(connection: Any, _record: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode=WAL")

        @event.listens_for(self._engine, "begin")
        def _begin(connection: Connection) -> None:
            # A transaction that will write takes its lock at once: no upgrade can fail half-way.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        with self._engine.begin() as sql:
            _tables.create_all(sql)
            known = sql.execute(select(_schema.c.version)).scalar()
            if known is None:
                sql.execute(insert(_schema).values(version=VERSION))
            elif known != VERSION:
                raise InputError(
                    Problem(str(path), f"is of version {known}, this phx reads {VERSION}",
                            "use the phx that made it, or move the file away")
                )  # fmt: skip

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _sql(self) -> Iterator[Connection]:
        with self._engine.begin() as sql:
            yield sql

    # hosts

    def hosts(self) -> list[Host]:
        with self._sql() as sql:
            rows = sql.execute(select(_hosts.c.told).order_by(_hosts.c.name)).scalars()
            return [Host(**json.loads(told)) for told in rows]

    def host(self, name: str) -> Host:
        """InputError naming the hosts that there are."""
        known = {h.name: h for h in self.hosts()}
        if name not in known:
            hint = close(name, known) if known else "start one: phx host up"
            raise InputError(Problem("", f"no host '{name}'", hint))
        return known[name]

    def put_host(self, host: Host) -> None:
        with self._sql() as sql:
            sql.execute(delete(_hosts).where(_hosts.c.name == host.name))
            sql.execute(insert(_hosts).values(name=host.name, told=json.dumps(asdict(host))))

    def drop_host(self, name: str) -> None:
        with self._sql() as sql:
            sql.execute(delete(_hosts).where(_hosts.c.name == name))

    # clusters

    def clusters(self) -> list[ClusterRow]:
        with self._sql() as sql:
            rows = sql.execute(select(_clusters).order_by(_clusters.c.name)).mappings()
            return [ClusterRow(**{**r, "secret": Secret(r["secret"])}) for r in rows]

    def cluster(self, name: str) -> ClusterRow:
        known = {c.name: c for c in self.clusters()}
        if name not in known:
            hint = close(name, known) if known else "there is none: phx up CLUSTER.yaml"
            raise InputError(Problem("", f"no cluster '{name}'", hint))
        return known[name]

    def open_cluster(self, row: ClusterRow, nodes: list[NodeRow]) -> ClusterRow:
        """Remember a cluster and its nodes. If it is known, its secret and network stay and the rest is renewed."""
        with self._sql() as sql:
            old = (
                sql.execute(select(_clusters).where(_clusters.c.name == row.name))
                .mappings()
                .first()
            )
            if old is None:
                values = {**_fields(row), "secret": row.secret.reveal()}
                sql.execute(insert(_clusters).values(**values))
            else:
                row = ClusterRow(
                    row.name,
                    row.host,
                    old["network"],
                    row.spec,
                    Secret(old["secret"]),
                    old["created"],
                )
                sql.execute(
                    update(_clusters).where(_clusters.c.name == row.name)
                    .values(spec=row.spec, host=row.host)
                )  # fmt: skip
            have = set(
                sql.execute(select(_nodes.c.name).where(_nodes.c.cluster == row.name)).scalars()
            )
            for node in nodes:
                if node.name not in have:
                    sql.execute(insert(_nodes).values(**asdict(node)))
            gone = have - {n.name for n in nodes}
            sql.execute(delete(_nodes).where(_nodes.c.cluster == row.name, _nodes.c.name.in_(gone)))
        return row

    def drop_cluster(self, name: str) -> None:
        with self._sql() as sql:
            sql.execute(delete(_nodes).where(_nodes.c.cluster == name))
            sql.execute(delete(_clusters).where(_clusters.c.name == name))

    def nodes(self, cluster: str) -> list[NodeRow]:
        with self._sql() as sql:
            rows = sql.execute(select(_nodes).where(_nodes.c.cluster == cluster)).mappings()
            return sorted((NodeRow(**r) for r in rows), key=lambda n: natural(n.name))

    def tell(self, node: NodeRow) -> None:
        """Keep what a node last said."""
        with self._sql() as sql:
            values = asdict(node)
            sql.execute(
                update(_nodes)
                .where(_nodes.c.cluster == node.cluster, _nodes.c.name == node.name)
                .values(**values)
            )


def _fields(row: ClusterRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ClusterRow.__slots__}
