"""Metrics as Prometheus reads them: parsed back by its own parser, with units in names and nothing twice."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cluster.metering import metrics
from cluster.metering.account import Account, Held, Used
from cluster.metering.metrics import Seen
from cluster.metering.usage import Sample
from tests.test_usage import MARK, THEN

ONE = Sample(0.0, "lab", (THEN, replace(THEN, name="demo.worker-1", mark=replace(MARK, node="worker-1", role="worker"),
                                        read=None, waited=None)))  # fmt: skip
SEEN = Seen([ONE], ["far"], [Account("demo", "ann", 2, Held(5.0, 6.0), Used(7.0, 1, 2))])


def read(seen=SEEN):
    """(sample's name, labels) -> value, as Prometheus would keep it."""
    found = {}
    for family in text_string_to_metric_families(metrics.text(lambda: seen)):
        assert family.documentation
        for s in family.samples:
            key = s.name, tuple(sorted(s.labels.items()))
            assert key not in found
            found[key] = s.value
    return found


def of(name, **labels):
    return read()[name, tuple(sorted(labels.items()))]


HEAD = {"cluster": "demo", "node": "head-1", "role": "head", "host": "lab"}


def test_counters_and_promises_are_in_base_units():
    assert of("philoxenia_node_cpu_seconds_total", **HEAD) == 1.0
    assert of("philoxenia_node_cpu_wait_seconds_total", **HEAD) == 0.1
    assert of("philoxenia_node_cpu_guarantee_cores", **HEAD) == MARK.guarantee.cpu_guarantee / 1000
    assert of("philoxenia_node_memory_bytes", **HEAD) == 512 << 20
    assert of("philoxenia_node_network_receive_bytes_total", **HEAD) == 1000
    assert of("philoxenia_node_network_receive_limit_bytes_per_second", **HEAD) == 12_500_000
    assert of("philoxenia_node_disk_read_bytes_total", **HEAD) == 3000


def test_what_the_driver_does_not_tell_is_absent_not_zero():
    nodes = {
        dict(labels)["node"]
        for name, labels in read()
        if name == "philoxenia_node_disk_read_bytes_total"
    }
    assert nodes == {"head-1"}


def test_hosts_that_do_not_answer_are_down():
    assert of("philoxenia_host_up", host="lab") == 1 and of("philoxenia_host_up", host="far") == 0


def test_the_account_is_by_cluster_and_owner():
    whose = {"cluster": "demo", "owner": "ann"}
    assert of("philoxenia_held_cpu_core_seconds_total", **whose) == 5.0
    assert of("philoxenia_used_cpu_seconds_total", **whose) == 7.0
    assert of("philoxenia_used_network_bytes_total", **whose) == 3.0


def test_names_follow_prometheus():
    names = {name for name, _ in read()}
    assert all(re.fullmatch(r"philoxenia_[a-z_]+", n) for n in names)
    assert all(n.endswith(("_total", "_cores", "_bytes", "_per_second", "_up")) for n in names)


def test_each_scrape_looks_anew_and_registering_does_not():
    looks = itertools.count()

    def see():
        next(looks)
        return SEEN

    registry = metrics.registry(see)
    assert next(looks) == 0
    for _ in range(2):
        list(registry.collect())
    assert next(looks) == 3


def test_every_metric_is_in_the_documents():
    told = (Path(__file__).parents[1] / "docs" / "usage.md").read_text()
    assert [n for n in sorted({name for name, _ in read()}) if f"`{n}`" not in told] == []
