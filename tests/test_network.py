"""Addresses and names are allotted the same way each time, never twice, and fit where they go."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError, explain
from cluster import network
from tests.invented import CLUSTER, spec

NET = ipaddress.IPv4Network


def texts(found):
    return {node: str(address) for node, address in found.items()}


def test_lowest_free_addresses_in_the_order_of_the_names():
    found = network.allot(spec(), NET("10.7.0.0/24"))
    assert texts(found) == {"head-1": "10.7.0.1", "worker-1": "10.7.0.2", "worker-2": "10.7.0.3"}
    assert list(found) == [name for name, _ in spec().names]


def test_fixed_addresses_first_the_others_around_them():
    text = CLUSTER.replace("    count: 2\n", "    count: 2\n    address: 10.7.0.1\n")
    assert texts(network.allot(spec(text), NET("10.7.0.0/24"))) == {
        "head-1": "10.7.0.3", "worker-1": "10.7.0.1", "worker-2": "10.7.0.2",
    }  # fmt: skip


@given(st.integers(1, 200), st.integers(0, 50))
def test_no_address_is_allotted_twice_or_is_the_hosts(count, at):
    text = CLUSTER.replace("count: 2", f"count: {count}").replace(
        "    ssh_to", f"    address: 10.7.0.{at + 1}\n    ssh_to"
    )
    net = NET("10.7.0.0/24")
    found = network.allot(spec(text), net)
    assert len(set(found.values())) == len(found) == count + 1
    assert not {net.network_address, net.broadcast_address, network.gateway(net)} & set(
        found.values()
    )
    assert all(address in net for address in found.values())


def test_a_full_network_still_fits():
    text = CLUSTER.replace("10.7.0.0/24", "10.7.0.0/29").replace("count: 2", "count: 4")
    found = network.allot(spec(text), NET("10.7.0.0/29"))
    assert sorted(map(str, found.values())) == [f"10.7.0.{n}" for n in range(1, 6)]
    assert str(network.gateway(NET("10.7.0.0/29"))) == "10.7.0.6"


def test_the_hosts_address_is_not_given_to_one_node_too_many():
    """cluster.spec refuses it before; here it must not pass in silence."""
    text = CLUSTER.replace("10.7.0.0/24", "10.7.0.0/29").replace("count: 2", "count: 5")
    with pytest.raises(InputError, match="has no address left for worker-5"):
        network.allot(spec(text), NET("10.7.0.0/29"))


def test_the_files_network_is_taken_unless_another_cluster_has_it():
    assert network.choose(spec(), [NET("10.8.0.0/24")]) == NET("10.7.0.0/24")
    with pytest.raises(InputError) as caught:
        network.choose(spec(), [NET("10.8.0.0/24"), NET("10.7.0.0/16")])
    assert explain(caught.value) == (
        "error: network: 10.7.0.0/24 overlaps 10.7.0.0/16 of another cluster\n"
        "  hint: choose another, or leave 'network' out"
    )


def test_without_a_network_the_first_free_one_of_the_pool():
    free = spec(CLUSTER.replace("network: 10.7.0.0/24\n", ""))
    assert network.choose(free, []) == NET("10.77.0.0/24")
    assert network.choose(free, [NET("10.77.0.0/24"), NET("10.77.1.64/26")]) == NET("10.77.2.0/24")
    with pytest.raises(InputError, match=r"no free network is left in 10\.77\.0\.0/16"):
        network.choose(free, [NET("10.0.0.0/8")])


names = st.text("abcxyz019-", min_size=1, max_size=40)


@given(names, names)
def test_device_names_fit_into_the_kernels_fifteen_letters(cluster, node):
    tap = network.tap(cluster, node)
    for name in (network.bridge(cluster), tap, network.ifb(tap)):
        assert len(name) <= 15 and name.isalnum()
    assert len({network.bridge(cluster), tap, network.ifb(tap)}) == 3


def test_the_same_node_of_two_clusters_has_two_taps():
    assert network.tap("a", "b-1") != network.tap("a-b", "1") != network.tap("b", "b-1")
    assert network.tap("a", "b-1") == network.tap("a", "b-1")


@pytest.mark.parametrize("walled", [True, False])
def test_golden_xml(walled, golden):
    text = network.xml("demo", NET("10.7.0.0/24"), walled=walled)
    golden(f"network-{'walled' if walled else 'isolated'}.xml", text)
