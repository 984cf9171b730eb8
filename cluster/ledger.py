"""What must be remembered between commands, and the only door to SQL: hosts, clusters, their nodes' last reports.

The truth about guests is in the hypervisor; the ledger holds what it cannot know: each cluster's secret and file,
which host it is on, what was promised, what its nodes last said. SQLite here, in a file that only its owner reads.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from builder.errors import EnvironmentLacks, InputError, Problem, close
from cluster.calibrate.curve import Calibration, calibration
from cluster.contract import diary, papers
from cluster.hosts.host import Host
from cluster.hosts.policy import THIN, Uplink
from cluster.metering import books
from cluster.spec import natural
from contextualize.identity import Secret

_tables = MetaData()
_hosts = Table(
    "host",
    _tables,
    Column("name", String, primary_key=True),
    Column("told", String, nullable=False),
)
_calibrations = Table(
    "calibration", _tables,
    Column("host", String, primary_key=True),
    Column("told", String, nullable=False),
)  # fmt: skip
_uplinks = Table(
    "uplink", _tables,
    Column("host", String, primary_key=True),
    Column("device", String, nullable=False),
    Column("rate", Integer, nullable=False),
)  # fmt: skip
_overcommits = Table(
    "overcommit", _tables,
    Column("host", String, primary_key=True),
    Column("disk", Float, nullable=False),
)  # fmt: skip
_clusters = Table(
    "cluster", _tables,
    Column("name", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("network", String, nullable=False),
    Column("spec", String, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("created", String, nullable=False),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("context", String, nullable=False, server_default=""),
    Column("images", String, nullable=False, server_default="{}"),
    Column("owner", String, nullable=False, server_default=""),
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
    Column("context", String, nullable=False, server_default=""),
)  # fmt: skip
_events = Table(
    "event", _tables,
    Column("number", Integer, primary_key=True),
    Column("cluster", String, nullable=False),
    Column("time", String, nullable=False),
    Column("node", String, nullable=False),
    Column("what", String, nullable=False),
)  # fmt: skip
_schema = Table("schema", _tables, Column("version", Integer, primary_key=True))
VERSION = 6
_UPGRADES = {
    # Tables that are missing altogether are made before this runs.
    1: (
        "ALTER TABLE cluster ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE cluster ADD COLUMN context VARCHAR NOT NULL DEFAULT ''",
        "ALTER TABLE node ADD COLUMN context VARCHAR NOT NULL DEFAULT ''",
    ),
    2: ("ALTER TABLE cluster ADD COLUMN images VARCHAR NOT NULL DEFAULT '{}'",),
    3: ("ALTER TABLE cluster ADD COLUMN owner VARCHAR NOT NULL DEFAULT ''",),
    4: (),
    5: (),
}
"""Version -> what makes the next one of it."""


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster as launched.

    spec        its file as one text, every file that it names in its place
    created     UTC
    generation  how often its context was another; `context` is the digest of the newest
    images      role -> id of the image that its nodes have, as JSON
    owner       whose account it is on
    """

    name: str
    host: str
    network: str
    spec: str
    secret: Secret
    created: str
    generation: int = 0
    context: str = ""
    images: str = "{}"
    owner: str = ""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node and what it last said. `stage` is defined until it says more; `uptime` of that report.

    context  digest of what its context is made of (but late facts), when it was last healthy
    """

    cluster: str
    name: str
    role: str
    address: str
    stage: str = "defined"
    boot: str = ""
    uptime: float = 0.0
    message: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a cluster, or to one of its nodes. `time` is UTC, ISO 8601."""

    number: int
    cluster: str
    time: str
    node: str
    what: str


class Ledger:
    """One file. Every method is one transaction; two processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self._path = path = home / "ledger.sqlite"
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

        with self._sql() as sql:
            _tables.create_all(sql)
            books.TABLES.create_all(sql)
            papers.TABLES.create_all(sql)
            diary.TABLES.create_all(sql)
            known = sql.execute(select(_schema.c.version)).scalar()
            if known is None:
                sql.execute(insert(_schema).values(version=VERSION))
            elif known > VERSION:
                raise InputError(
                    Problem(str(path), f"is of version {known}, this phx reads {VERSION}",
                            "use the phx that made it, or move the file away")
                )  # fmt: skip
            for version in range(known or VERSION, VERSION):
                for statement in _UPGRADES[version]:
                    sql.exec_driver_sql(statement)
                sql.execute(update(_schema).values(version=version + 1))

        self.books = books.Books(self._sql)
        self.papers = papers.Papers(self._sql)
        self.diary = diary.Diary(self._sql)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _sql(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as sql:
                yield sql
        except OperationalError as cause:
            raise EnvironmentLacks(
                f"the ledger {self._path} cannot be used: {cause.orig}",
                "make room or repair what is named; then run the same command again: it goes on",
            ) from cause

    # hosts

    def hosts(self) -> list[Host]:
        with self._sql() as sql:
            rows = sql.execute(select(_hosts.c.told).order_by(_hosts.c.name)).scalars()
            return [_host(json.loads(told)) for told in rows]

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

    def calibration(self, host: str) -> Calibration | None:
        """What traffic costs on a host; None if nobody measured it."""
        with self._sql() as sql:
            told = sql.execute(
                select(_calibrations.c.told).where(_calibrations.c.host == host)
            ).scalar()
        return None if told is None else calibration(json.loads(told))

    def put_calibration(self, host: str, found: Calibration) -> None:
        with self._sql() as sql:
            sql.execute(delete(_calibrations).where(_calibrations.c.host == host))
            sql.execute(insert(_calibrations).values(host=host, told=json.dumps(found.told())))

    def uplink(self, host: str) -> Uplink | None:
        """The device that the host lends to a cluster; None if it has none."""
        with self._sql() as sql:
            found = select(_uplinks.c.device, _uplinks.c.rate).where(_uplinks.c.host == host)
            row = sql.execute(found).first()
        return Uplink(*row) if row else None

    def overcommit(self, host: Host) -> float:
        """How many times the host promises its disk space."""
        with self._sql() as sql:
            found = select(_overcommits.c.disk).where(_overcommits.c.host == host.name)
            decided: float | None = sql.execute(found).scalar()
            return decided or THIN[host.kind]

    def put_overcommit(self, host: str, factor: float) -> None:
        with self._sql() as sql:
            sql.execute(delete(_overcommits).where(_overcommits.c.host == host))
            sql.execute(insert(_overcommits).values(host=host, disk=factor))

    def put_uplink(self, host: str, lent: Uplink | None) -> None:
        with self._sql() as sql:
            sql.execute(delete(_uplinks).where(_uplinks.c.host == host))
            if lent is not None:
                sql.execute(insert(_uplinks).values(host=host, **asdict(lent)))

    def drop_host(self, name: str) -> None:
        with self._sql() as sql:
            sql.execute(delete(_calibrations).where(_calibrations.c.host == name))
            sql.execute(delete(_uplinks).where(_uplinks.c.host == name))
            sql.execute(delete(_overcommits).where(_overcommits.c.host == name))
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

    def created(self, name: str) -> str | None:
        """When the cluster of that name was launched first; None when there is none."""
        with self._sql() as sql:
            found: str | None = sql.execute(
                select(_clusters.c.created).where(_clusters.c.name == name)
            ).scalar()
        return found

    def open_cluster(self, row: ClusterRow, nodes: list[NodeRow]) -> ClusterRow:
        """Remember a cluster and its nodes. If it is known, its secret and network stay and the rest is renewed.

        Nodes that are not named stay until `drop_nodes`: their addresses are not free before they are gone.
        """
        with self._sql() as sql:
            old = (
                sql.execute(select(_clusters).where(_clusters.c.name == row.name))
                .mappings()
                .first()
            )
            if old is None:
                # A phx that was waiting for a cluster of that name may have noted something after its end.
                sql.execute(delete(_events).where(_events.c.cluster == row.name))
                values = {**_fields(row), "secret": row.secret.reveal()}
                sql.execute(insert(_clusters).values(**values))
            else:
                row = replace(
                    row,
                    network=old["network"],
                    secret=Secret(old["secret"]),
                    created=old["created"],
                )
                sql.execute(
                    update(_clusters).where(_clusters.c.name == row.name)
                    .values(spec=row.spec, host=row.host, generation=row.generation, context=row.context,
                            images=row.images, owner=row.owner)
                )  # fmt: skip
            have = set(
                sql.execute(select(_nodes.c.name).where(_nodes.c.cluster == row.name)).scalars()
            )
            new = [asdict(node) for node in nodes if node.name not in have]
            if new:
                sql.execute(insert(_nodes), new)
        return row

    def drop_nodes(self, cluster: str, names: Collection[str]) -> None:
        with self._sql() as sql:
            of = _nodes.c.cluster == cluster
            sql.execute(delete(_nodes).where(of, _nodes.c.name.in_(names)))
            papers.forget(sql, cluster, names)

    def drop_cluster(self, name: str) -> None:
        with self._sql() as sql:
            sql.execute(delete(_nodes).where(_nodes.c.cluster == name))
            sql.execute(delete(_events).where(_events.c.cluster == name))
            sql.execute(delete(_clusters).where(_clusters.c.name == name))
            papers.forget(sql, name)
            diary.lose(sql, name, _now("seconds"))

    def nodes(self, cluster: str) -> list[NodeRow]:
        with self._sql() as sql:
            rows = sql.execute(select(_nodes).where(_nodes.c.cluster == cluster)).mappings()
            return sorted((NodeRow(**r) for r in rows), key=lambda n: natural(n.name))

    def tell(self, *nodes: NodeRow, notes: Iterable[tuple[str, str, str]] = ()) -> None:
        """Keep what nodes last said, and add events (cluster, node, what), all in one transaction."""
        now = _now("milliseconds")
        noted = [{"cluster": c, "time": now, "node": n, "what": what} for c, n, what in notes]
        with self._sql() as sql:
            if nodes:
                of = (_nodes.c.cluster == bindparam("of"), _nodes.c.name == bindparam("called"))
                rest = [c.name for c in _nodes.c if c.name not in ("cluster", "name")]
                sql.execute(
                    update(_nodes).where(*of).values({name: bindparam(name) for name in rest}),
                    [{"of": n.cluster, "called": n.name, **{k: getattr(n, k) for k in rest}} for n in nodes],
                )  # fmt: skip
            if noted:
                sql.execute(insert(_events), noted)

    # events

    def note(self, cluster: str, node: str, what: str) -> None:
        """Add an event; `node` is "" when it is the cluster's."""
        self.tell(notes=[(cluster, node, what)])

    def events(self, cluster: str, after: int = 0) -> list[Event]:
        """Those with a number above `after`, oldest first."""
        with self._sql() as sql:
            wanted = select(_events).where(_events.c.cluster == cluster, _events.c.number > after)
            return [Event(**r) for r in sql.execute(wanted.order_by(_events.c.number)).mappings()]


def _now(exact: str) -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=exact)


def _host(told: dict[str, Any]) -> Host:
    told["offers"] = tuple(told.get("offers", ()))
    return Host(**told)


def _fields(row: ClusterRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ClusterRow.__slots__}
