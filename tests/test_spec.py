"""Cluster files are read as written or refused in full: each case of tests/cases/cluster gives exactly its text."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import cluster
from builder.errors import InputError, explain
from cluster import spec
from cluster.hosts import store
from tests.invented import CLUSTER, LAB

CASES = Path(__file__).parent / "cases" / "cluster"


def load(folder, text):
    path = folder / "demo.yaml"
    path.write_text(text)
    return spec.load(path)[0]


@pytest.mark.parametrize("name", sorted(p.stem for p in CASES.glob("*.yaml")))
def test_broken(name, tmp_path):
    case = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    assert set(case) == {"why", "text", "error"} and case["why"]
    with pytest.raises(InputError) as caught:
        load(tmp_path, case["text"])
    assert explain(caught.value).replace(f"{tmp_path}/", "") == case["error"].rstrip("\n")


def test_there_are_enough_broken_files():
    assert len(list(CASES.glob("*.yaml"))) >= 25


def test_a_private_key_in_the_wrong_place_is_not_repeated(tmp_path):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\\nc2VjcmV0\\n"
    with pytest.raises(InputError) as caught:
        load(tmp_path, CLUSTER + f'authorized_keys: ["{key}"]\n')
    assert "c2VjcmV0" not in explain(caught.value)


def test_units_become_whole_numbers(tmp_path):
    head = load(tmp_path, CLUSTER).roles["head"]
    assert (head.cpu.guarantee, head.cpu.limit) == (500, 1000)
    assert (head.memory.min, head.memory.max) == (512 << 20, 512 << 20)
    for way in (head.network.inward, head.network.outward):
        assert (way.guarantee, way.limit) == (20_000_000, 100_000_000)
    assert (head.disk.size, head.disk.throughput, head.disk.iops) == (4 << 30, None, None)


def test_the_long_forms(tmp_path):
    text = CLUSTER.replace(
        "memory: 512M", "memory: {min: 512M, max: 1G}\n    disk: {size: 8G, iops: 500}"
    )
    each = "network: {guarantee: 20Mbit, limit: 100Mbit}\n    ssh"
    apart = "network: {in: {guarantee: 1Mbit, limit: 2Mbit}, out: {guarantee: 3kbit, limit: 4Gbit}}\n    ssh"
    head = load(tmp_path, text.replace(each, apart)).roles["head"]
    assert (head.memory.min, head.memory.max, head.disk.size, head.disk.iops) == (
        512 << 20,
        1 << 30,
        8 << 30,
        500,
    )
    assert (head.network.inward.limit, head.network.outward.guarantee) == (2_000_000, 3000)


def test_names_in_the_order_of_the_file(tmp_path):
    found = load(tmp_path, CLUSTER)
    assert found.names == (("head-1", "head"), ("worker-1", "worker"), ("worker-2", "worker"))
    assert found.network == ipaddress.IPv4Network("10.7.0.0/24")


@pytest.mark.parametrize(
    ("why", "count", "fits"),
    [
        ("a /29 has 8, less network, broadcast and the host", 5, True),
        ("one more does not fit", 6, False),
    ],
)
def test_a_network_holds_what_it_holds(why, count, fits, tmp_path):
    text = CLUSTER.replace("10.7.0.0/24", "10.7.0.0/29").replace("count: 2", f"count: {count - 1}")
    if fits:
        assert len(load(tmp_path, text).names) == count, why
    else:
        with pytest.raises(InputError, match="do not fit"):
            load(tmp_path, text)


def test_the_longest_name_fits_into_the_path_of_a_socket(tmp_path):
    cluster, role = "c" * 40, "w" * (spec.LONGEST - 43)
    found = load(
        tmp_path,
        CLUSTER.replace("demo", cluster).replace("worker:", f"{role}:").replace("[worker]", "[]"),
    )
    node = found.names[-1][0]
    assert len(f"{cluster}.{node}") == spec.LONGEST
    host = replace(LAB, run="/run/philoxenia/local")
    for path in (store.channel(cluster, node), host.outside(store.channel(cluster, node))):
        assert len(str(path)) <= 107, "struct sockaddr_un, unix(7)"


def test_the_examples_we_ship_are_right():
    examples = sorted((Path(cluster.__file__).parent / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        assert spec.load(path)[0].names


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["w-10", "w-2", "w-1"], ["w-1", "w-2", "w-10"]),
        (["b-1", "a-2", "a-1"], ["a-1", "a-2", "b-1"]),
        (["a-b-2", "a-b-1", "a"], ["a", "a-b-1", "a-b-2"]),
        (["x-", "-1", ""], ["", "-1", "x-"]),
    ],
)
def test_natural_order(names, order):
    assert sorted(names, key=spec.natural) == order
