"""A promise maps to what each driver takes: in its range, guarantees never less, limits never passed, none left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.guarantee import (
    KEYS,
    MOST_SHARES,
    PERIOD,
    Balloon,
    Credit,
    Guarantee,
    Throttle,
    contract,
    cpu_tune,
    differing,
    refusals,
    settings,
    show_rates,
    vif_average,
    vif_bits,
    vif_rate,
    xen_cpu,
)  # fmt: skip
from tests.invented import GUARANTEE, promise

# Thousandths of a core that cluster.spec lets through.
CORES = st.integers(10, 4_096_000)
CGROUPS = st.sampled_from([1, 2])
RATES = st.integers(1, 10**8).map(lambda n: n * 1000)


def of(guarantee, limit):
    return promise(guarantee, limit, 1 << 30, 10**6, 10**7)


@st.composite
def crowds(draw):
    """(thousandths of a core that a machine has, guests that it promises nine tenths of them)."""
    cores = draw(st.integers(1, 256)) * 1000
    left, crowd = cores * 9 // 10, []
    for want in draw(st.lists(st.tuples(CORES, CORES), min_size=1, max_size=40)):
        guarantee, limit = sorted((min(want[0], cores), min(want[1], cores)))
        if guarantee <= left:
            crowd.append(of(guarantee, limit))
            left -= guarantee
    assume(crowd)
    return cores, crowd


@given(crowds(), CGROUPS)
def test_under_full_contention_each_guest_has_at_least_what_it_was_promised(crowd, cgroup):
    cores, guests = crowd
    shares = [cpu_tune(g, cgroup, cores * 9 // 10).shares for g in guests]
    for guest, own in zip(guests, shares, strict=True):
        assert own * cores >= guest.cpu_guarantee * sum(shares)


@given(crowds())
def test_on_xen_too_where_every_vcpu_has_the_weight(crowd):
    cores, guests = crowd
    # Weights are rounded up for each vCPU: so many of them may share the tenth that is not promised.
    assume(sum(g.vcpus for g in guests) <= 1024 * cores // 10_000)
    weights = [xen_cpu(g).weight * g.vcpus for g in guests]
    for guest, own in zip(guests, weights, strict=True):
        assert own * cores >= guest.cpu_guarantee * sum(weights)


@given(CORES, CORES, CORES, CGROUPS, st.integers(0, 4_096_000))
def test_weights_and_caps_never_fall_when_the_promise_rises(a, b, limit, cgroup, room):
    low, high = sorted((a, b))
    for count in (lambda g: cpu_tune(g, cgroup, room).shares, lambda g: xen_cpu(g).weight):
        top = max(high, limit)
        assert count(of(low, top)) <= count(of(high, top))
    for count in (lambda g: cpu_tune(g, cgroup, room).quota, lambda g: xen_cpu(g).cap):
        assert count(of(10, low)) <= count(of(10, high))


@given(CORES, CORES, CGROUPS, st.integers(0, 4_096_000))
def test_weights_and_quotas_are_what_the_kernel_and_xen_take(a, b, cgroup, room):
    low, high = sorted((a, b))
    tune, credit = cpu_tune(of(low, high), cgroup, room), xen_cpu(of(low, high))
    assert (2 if cgroup == 1 else 1) <= tune.shares <= MOST_SHARES[cgroup]
    assert tune.quota >= 1000
    assert tune.period == PERIOD == 100_000
    assert 1 <= credit.weight <= 65_535
    assert 1 <= credit.cap <= 100 * of(low, high).vcpus, "libxl refuses more"


@given(CORES)
def test_the_limit_is_never_passed(limit):
    given = of(10, limit)
    assert cpu_tune(given).quota == limit * 100, "exactly"
    assert 0 <= limit - xen_cpu(given).cap * 10 < 10, "in whole percent, rounded down"


def test_a_big_guest_starts_on_a_host_with_cgroup_v2():
    """64 cores at 1024 each would be 65536; the kernel takes 10000 there."""
    assert cpu_tune(of(57_600, 64_000), 2, 57_600).shares == 10_000
    assert cpu_tune(of(57_600, 64_000), 1, 57_600).shares == 58_983


def test_cores_and_the_cpus_that_hold_them():
    assert cpu_tune(of(1000, 1000)).shares == 1024
    assert [of(10, limit).vcpus for limit in (10, 1000, 1001, 2500)] == [1, 1, 2, 3]
    assert xen_cpu(of(500, 1000)) == Credit(512, 100)
    assert xen_cpu(of(500, 1500)) == Credit(256, 150), "two vCPUs, each with the domain's weight"


@given(RATES)
def test_a_whole_rate_of_a_vif_is_exact(rate):
    assert vif_bits(vif_rate(rate)) == rate


@given(st.integers(1000, 10**11), st.integers(1000, 10**11))
def test_a_vif_never_passes_its_limit_and_more_is_never_less(a, b):
    low, high = sorted((a, b))
    assert vif_bits(vif_rate(low)) <= low and vif_bits(vif_rate(low)) <= high
    size, interval = map(int, vif_rate(low).split(","))
    assert size >= 1 and interval in (40_000, 50_000)
    assert vif_average(max(low, 8192)) * 8192 <= max(low, 8192) and vif_average(low) <= vif_average(
        high
    )


def test_all_that_a_driver_is_told():
    given = replace(GUARANTEE, memory_max=1 << 30, disk_throughput=20 << 20, disk_iops=500)
    assert settings(given) == (cpu_tune(given), Balloon(512 << 20), Throttle(20 << 20, 500))
    assert settings(given, "xen") == (xen_cpu(given), Balloon(512 << 20))


@pytest.mark.parametrize(
    ("why", "change", "keys"),
    [
        ("nothing is wrong with it", {}, []),
        ("Xen's driver has no limits for disks", {"disk_iops": 5}, ["disk.iops"]),
        ("nor for bytes", {"disk_throughput": 1024}, ["disk.throughput"]),
        ("a cap of 1.2 % is 1 %, less than what is promised", {"cpu_guarantee": 12, "cpu_limit": 12}, ["cpu.limit"]),
        ("with room between them, the cap may be rounded down", {"cpu_guarantee": 10, "cpu_limit": 12}, []),
        ("Xen counts memory in MiB", {"memory_min": 1 << 10}, ["memory.min"]),
    ],
)  # fmt: skip
def test_what_xen_cannot_keep_is_refused_and_qemu_keeps_it(why, change, keys):
    given = replace(GUARANTEE, **change)
    found = refusals(given, "xen")
    assert [r.key for r in found] == keys, why
    assert all(r.why and r.remedy for r in found)
    assert refusals(given, "qemu") == ()


def test_the_keys_are_those_of_a_guarantee():
    assert sorted(KEYS.values()) == sorted(Guarantee.__slots__)
    assert differing(GUARANTEE, replace(GUARANTEE, memory_max=1 << 30, out_limit=1)) == (
        "memory.max",
        "network.out.limit",
    )


@pytest.mark.parametrize("driver", ["qemu", "xen"])
def test_the_contract_names_every_resource(driver):
    lines = contract(promise(500, 1500), driver)
    assert [line.resource for line in lines] == ["cpu", "memory", "network", "disk"]
    assert [line.asked for line in lines] == ["0.5..1.5 cores", "512M", "20Mbit..100Mbit", "4G"]
    assert all(line.mechanism for line in lines), "a promise without a mechanism is none"
    numbers = {"qemu": ("512", "150000/100000"), "xen": ("256", "150%")}[driver]
    assert all(n in lines[0].mechanism for n in numbers)


def test_the_contract_of_what_is_not_the_same_in_all_its_parts():
    given = promise(
        memory_max=1 << 30, out_limit=50_000_000, disk_throughput=20 << 20, disk_iops=500
    )
    told = {line.resource: line.asked for line in contract(given)}
    assert told["memory"] == "512M..1G"
    assert told["network"] == "in 20Mbit..100Mbit, out 20Mbit..50Mbit" == show_rates(given)
    assert told["disk i/o"] == "at most 20M/s and 500 iops"
