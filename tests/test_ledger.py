"""What must be remembered is read back as it was, by another process too, and no one else may read it."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace

import pytest

from builder.errors import InputError, explain
from cluster.ledger import ClusterRow, Ledger, NodeRow
from contextualize.identity import Secret
from tests.invented import LAB, SECRET

ROW = ClusterRow(
    "demo", "lab", "10.7.0.0/24", "cluster: demo\n", SECRET, "2026-01-02T03:04:05+00:00"
)


def node(name, **more):
    return NodeRow("demo", name, name.rpartition("-")[0], "10.7.0.1", **more)


@pytest.fixture
def ledger(tmp_path):
    found = Ledger(tmp_path)
    yield found
    found.close()


def test_only_its_owner_reads_it(ledger, tmp_path):
    ledger.open_cluster(ROW, [node("head-1")])
    for path in tmp_path.glob("ledger.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_hosts_read_back(ledger):
    other = replace(LAB, name="other", kind="libvirt", accelerator="kvm")
    for host in (other, LAB, LAB):
        ledger.put_host(host)
    assert ledger.hosts() == [LAB, other]
    ledger.put_host(replace(LAB, accelerator="qemu"))
    assert ledger.host("lab").accelerator == "qemu", "the last that was put is kept"
    ledger.drop_host("lab")
    ledger.drop_host("lab")
    assert ledger.hosts() == [other]


def test_clusters_and_nodes_read_back_in_another_process_too(ledger, tmp_path):
    nodes = [
        node("worker-10"),
        node("worker-2", stage="failed", boot="b", uptime=1.5, message="no\nway"),
    ]
    assert ledger.open_cluster(ROW, nodes) == ROW
    other = Ledger(tmp_path)
    try:
        assert other.clusters() == [ROW] and other.cluster("demo") == ROW
        assert other.nodes("demo") == [nodes[1], nodes[0]], "worker-2 comes before worker-10"
        assert other.nodes("nobody") == []
    finally:
        other.close()


def test_a_known_cluster_keeps_its_secret_network_and_time(ledger):
    ledger.open_cluster(ROW, [])
    later = ClusterRow("demo", "h2", "10.9.0.0/24", "changed", Secret(b"another"), "later")
    kept = ledger.open_cluster(later, [])
    assert kept.secret == SECRET and (kept.network, kept.created) == (ROW.network, ROW.created)
    assert (kept.host, kept.spec) == ("h2", "changed")
    assert ledger.cluster("demo") == kept


def test_opened_again_nodes_keep_what_they_said_and_those_not_named_stay_until_they_are_gone(
    ledger,
):
    said = node("worker-1", stage="healthy", boot="b1", uptime=3.5)
    ledger.open_cluster(ROW, [node("worker-1"), node("worker-2")])
    ledger.tell(said)
    ledger.open_cluster(ROW, [node("worker-1"), node("worker-3")])
    assert ledger.nodes("demo") == [said, node("worker-2"), node("worker-3")], (
        "whoever is to leave holds its address until it is gone"
    )
    ledger.drop_nodes("demo", ["worker-2", "nobody"])
    assert ledger.nodes("demo") == [said, node("worker-3")]


def test_tell_is_for_nodes_that_are_known(ledger):
    ledger.open_cluster(ROW, [node("worker-1")])
    ledger.tell(node("worker-9", stage="healthy"))
    assert [n.name for n in ledger.nodes("demo")] == ["worker-1"]


def test_dropped_is_gone_whole(ledger):
    ledger.open_cluster(ROW, [node("worker-1")])
    ledger.drop_cluster("demo")
    ledger.drop_cluster("demo")
    assert ledger.clusters() == [] and ledger.nodes("demo") == []


@pytest.mark.parametrize(
    ("why", "ask", "text"),
    [
        ("no host yet", lambda ledger: ledger.host("lab"), "no host 'lab'\n  hint: start one: phx host up"),
        ("no cluster yet", lambda ledger: ledger.cluster("x"),
         "no cluster 'x'\n  hint: there is none: phx up CLUSTER.yaml"),
    ],
)  # fmt: skip
def test_nothing_there_says_how_to_begin(why, ask, text, ledger):
    with pytest.raises(InputError) as caught:
        ask(ledger)
    assert explain(caught.value) == f"error: {text}", why


def test_the_nearest_name_is_told(ledger):
    ledger.put_host(LAB)
    ledger.open_cluster(ROW, [])
    with pytest.raises(InputError) as caught:
        ledger.host("lap")
    assert explain(caught.value) == "error: no host 'lap'\n  hint: did you mean 'lab'?"
    with pytest.raises(InputError) as caught:
        ledger.cluster("dmeo")
    assert explain(caught.value) == "error: no cluster 'dmeo'\n  hint: did you mean 'demo'?"


def test_a_ledger_of_another_version_is_refused_not_guessed_at(tmp_path):
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as sql:
        sql.execute("UPDATE schema SET version = 99")
    with pytest.raises(InputError, match="is of version 99, this phx reads 6"):
        Ledger(tmp_path)


def test_a_ledger_of_version_1_is_brought_up_with_all_that_it_holds(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as sql:
        sql.executescript("""
            CREATE TABLE host (name VARCHAR NOT NULL, told VARCHAR NOT NULL, PRIMARY KEY (name));
            CREATE TABLE cluster (name VARCHAR NOT NULL, host VARCHAR NOT NULL, network VARCHAR NOT NULL,
                spec VARCHAR NOT NULL, secret BLOB NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (name));
            CREATE TABLE node (cluster VARCHAR NOT NULL, name VARCHAR NOT NULL, role VARCHAR NOT NULL,
                address VARCHAR NOT NULL, stage VARCHAR NOT NULL, boot VARCHAR NOT NULL, uptime FLOAT NOT NULL,
                message VARCHAR NOT NULL, PRIMARY KEY (cluster, name));
            CREATE TABLE schema (version INTEGER NOT NULL, PRIMARY KEY (version));
            INSERT INTO schema VALUES (1);
            INSERT INTO cluster VALUES ('demo', 'lab', '10.7.0.0/24', 'cluster: demo', x'00ff', 'then');
            INSERT INTO node VALUES ('demo', 'w-1', 'w', '10.7.0.1', 'healthy', 'b', 1.5, '');
        """)
    for _ in range(2):
        ledger = Ledger(tmp_path)
        assert ledger.cluster("demo") == ClusterRow(
            "demo", "lab", "10.7.0.0/24", "cluster: demo", Secret(b"\x00\xff"), "then", 0, ""
        )
        assert ledger.nodes("demo") == [
            NodeRow("demo", "w-1", "w", "10.7.0.1", "healthy", "b", 1.5)
        ]
        ledger.note("demo", "w-1", "seen")
        ledger.close()


def test_events_in_their_order_and_only_what_is_new(ledger):
    ledger.open_cluster(ROW, [])
    for node_, what in (("", "generation 1"), ("w-1", "booted"), ("w-1", "healthy")):
        ledger.note("demo", node_, what)
    ledger.note("other", "", "not ours")
    events = ledger.events("demo")
    assert [(e.node, e.what) for e in events] == [
        ("", "generation 1"),
        ("w-1", "booted"),
        ("w-1", "healthy"),
    ]
    assert [e.what for e in ledger.events("demo", events[1].number)] == ["healthy"]
    ledger.drop_cluster("demo")
    assert ledger.events("demo") == [] and len(ledger.events("other")) == 1
