"""A home that an earlier phx kept (tests/cases/ledger, by the code of version 4 itself) is used as it is by this."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from cluster import deploy, launch
from cluster.hosts import guarding
from cluster.ledger import VERSION
from tests.promised import NODES, PLAN, ask, in_force, marks, prepared

KEPT = Path(__file__).parent / "cases" / "ledger"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(guarding, "remove", lambda *_: None)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as sql:
        sql.executescript((KEPT / "4.sql").read_text())
    with prepared(tmp_path, monkeypatch) as found:
        for name, xml in json.loads((KEPT / "4.json").read_text()).items():
            found.bench.start(name, xml)
        deploy.shape(PLAN, found.reach(found.ledger.host("lab")))
        yield found


def test_the_clusters_of_version_4_are_shown_changed_and_taken_down(site):
    with sqlite3.connect(site.home / "ledger.sqlite") as sql:
        assert sql.execute("SELECT version FROM schema").fetchall() == [(VERSION,)]
    row = site.ledger.cluster("demo")
    assert (row.host, row.generation, row.owner) == ("lab", 1, "")
    assert {(n.name, n.stage) for n in site.ledger.nodes("demo")} == {(n, "healthy") for n in NODES}
    assert next(iter(site.ledger.events("demo"))).what == "generation 1: head 1, worker 2"
    assert set(marks(site)) == set(NODES), "what the guests' domains say of themselves is read"

    ask(site, "demo/worker", "cpu.guarantee=0.75", "network.limit=50Mbit")
    assert marks(site)["worker-2"].cpu_guarantee == 750 and in_force(site, "worker-2")
    held = {h.node: h.cpu for h in site.ledger.books.holdings() if h.cluster == "demo"}
    assert held["worker-1"] == 750 and held["head-1"] == 500

    launch.down(site, "demo", lambda _: None)
    assert site.bench.observe() == () and site.ledger.clusters() == []
