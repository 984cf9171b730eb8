"""`phx top`, `phx usage` and `phx metrics` over a host in memory: what they print, and what they add to the account."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from builder.errors import EnvironmentLacks, WorkFailed
from cluster import cli, domain, launch
from cluster.hosts.fake import FakeHypervisor
from cluster.metering import cli as metering
from cluster.metering import look
from cluster.site import Site
from tests.invented import LAB, drawn
from tests.test_ledger import ROW


class Clock:
    """Time that passes when somebody waits, and a guest that works meanwhile."""

    def __init__(self, machines):
        self.now, self.machines, self.left = 1000.0, machines, 3

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.now += seconds
        told = self.machines.counters.setdefault(
            "demo.head-1", {"cpu": 0, "received": 0, "waited": 0}
        )
        told["cpu"] += int(seconds * 0.3e9)
        told["waited"] += int(seconds * 0.6e9)
        told["received"] += int(seconds * 1_000_000)


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """A home with one cluster of three nodes on a host in memory."""
    found = FakeHypervisor()
    for node in drawn().nodes:
        found.start(node.domain, domain.xml(node.machine, node.context))
    site = Site(tmp_path / "home")
    site.ledger.put_host(LAB)
    site.ledger.open_cluster(replace(ROW, owner="ann"), [])
    site.ledger.books.hold("demo", "ann", {n.name: n.machine.guarantee for n in drawn().nodes})
    site.ledger.close()
    monkeypatch.setenv("PHX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Site, "connect", lambda _site, _host: found)
    clock = Clock(found)
    monkeypatch.setattr(metering, "time", clock)
    monkeypatch.setattr(look, "time", clock)
    return found


@pytest.fixture
def phx(machines, monkeypatch, capsys):
    """Run the program: (exit status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["phx", *words])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_top_once_is_a_table_and_marks_who_is_starved(phx, golden):
    status, out, err = phx("top", "demo", "--once")
    assert (status, err) == (0, "")
    golden("top.txt", out)


def test_top_for_programs_names_each_unit(phx):
    rows = json.loads(phx("top", "--once", "--json")[1])
    assert [r["node"] for r in rows] == ["head-1", "worker-1", "worker-2"]
    head = rows[0]
    assert head["cpu_cores"] == pytest.approx(0.3) and head["cpu_waited_cores"] == pytest.approx(
        0.6
    )
    assert head["received_bits_per_second"] == 8_000_000 and head["starved"] is True
    assert not any(r["starved"] for r in rows[1:])


def test_top_goes_on_until_it_is_ended_by_hand(phx):
    status, out, _ = phx("top", "demo", "--csv", "--interval", "1")
    assert status == 130
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 3 * 3, "three looks at three nodes, under one head"
    assert {r["cpu_cores"] for r in rows if r["node"] == "head-1"} == {"0.3"}
    assert {r["cpu_waited_cores"] for r in rows if r["node"] == "worker-1"} == {""}, "nobody told"


def test_top_as_lines_of_json(phx):
    lines = phx("top", "--json")[1].splitlines()
    assert len(lines) == 9 and {json.loads(line)["cluster"] for line in lines} == {"demo"}


def test_a_host_that_does_not_answer_is_an_error_for_top(phx, monkeypatch):
    def refuse(_site, _host):
        raise EnvironmentLacks("host 'lab' does not run", "phx host up lab")

    monkeypatch.setattr(Site, "connect", refuse)
    status, out, err = phx("top", "--once")
    assert (status, out) == (3, "") and "phx host up lab" in err
    status, out, err = phx("usage")
    assert status == 0 and "host 'lab' does not answer" in err and "ann" in out


def test_a_host_whose_connection_breaks_is_asked_anew(machines, tmp_path):
    class Broken(FakeHypervisor):
        def usage(self):
            raise WorkFailed("the host does not tell what its domains use")

    site = Site(tmp_path / "home")
    answers = iter([Broken(), machines])
    site.connect = lambda _host: next(answers)
    watch = look.Watch(site)
    assert watch.look() == [] and list(watch.silent) == ["lab"]
    assert len(watch.look()[0].usages) == 3 and not watch.silent
    watch.close()
    site.ledger.close()


def test_usage_tells_held_and_used_and_chooses(phx, machines):
    machines.counters["demo.head-1"] = {"cpu": 2 * 3600 * 10**9, "sent": 5 << 20}
    (told,) = json.loads(phx("usage", "--json")[1])
    assert (told["cluster"], told["owner"], told["nodes"]) == ("demo", "ann", 3)
    assert told["used"]["cpu_seconds"] == 7200 and told["used"]["sent_bytes"] == 5 << 20
    assert told["held"]["cpu_core_seconds"] > 0
    out = phx("usage", "--owner", "ann", "--since", "1h")[1]
    assert "2.00 core h" in out and "5.0M" in out, "looking twice counts once"
    for words in (("--owner", "bob"), ("--cluster", "other")):
        assert phx("usage", *words)[1] == "nothing was held or used\n"


def test_a_time_that_is_none(phx):
    status, _, err = phx("usage", "--since", "yesterday")
    assert status == 2 and err == (
        "error: --since: 'yesterday' is not a time\n  hint: write 24h, 7d, 2026-11-25 or 2026-11-25T12:00\n"
    )


def test_what_is_removed_was_counted_and_is_still_told(phx, machines, tmp_path, monkeypatch):
    machines.counters["demo.head-1"] = {"cpu": 3600 * 10**9}
    site = Site(tmp_path / "home")
    look.account(site, "lab", machines)
    launch.forget(site, "demo")
    site.ledger.close()
    (told,) = json.loads(phx("usage", "--json")[1])
    assert told["nodes"] == 0 and told["used"]["cpu_seconds"] == 3600


def test_metrics_are_printed(phx):
    status, out, _ = phx("metrics")
    families = {f.name: f for f in text_string_to_metric_families(out)}
    assert status == 0
    assert len(families["philoxenia_node_cpu_guarantee_cores"].samples) == 3
    assert families["philoxenia_held_cpu_core_seconds"].samples[0].labels == {
        "cluster": "demo", "owner": "ann",
    }  # fmt: skip


@pytest.mark.parametrize("address", ["9177", "localhost:", ":9177", "localhost:99999"])
def test_an_address_that_is_none(phx, address):
    status, _, err = phx("metrics", "--listen", address)
    assert status == 2 and f"'{address}' is not ADDRESS:PORT" in err
