"""A promise maps to what the kernel takes: in its range, never less for more, nothing left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.guarantee import PERIOD, Guarantee, contract, cpu_tune

# Thousandths of a core that cluster.spec lets through.
CORES = st.integers(10, 4_096_000)


def of(guarantee, limit):
    return Guarantee(guarantee, limit, 1 << 30, 10**6, 10**7, 4 << 30)


@given(CORES, CORES)
def test_shares_never_fall_when_the_guarantee_rises(a, b):
    low, high = sorted((a, b))
    assert cpu_tune(of(low, high)).shares <= cpu_tune(of(high, high)).shares


@given(CORES, CORES)
def test_shares_and_quota_are_what_the_kernel_takes(a, b):
    low, high = sorted((a, b))
    tune = cpu_tune(of(low, high))
    assert 2 <= tune.shares <= 262_144
    assert tune.quota >= 1000
    assert tune.period == PERIOD == 100_000


@given(st.integers(10, 255_000), st.integers(10, 255_000))
def test_within_the_kernels_range_shares_are_in_proportion(a, b):
    ratio = cpu_tune(of(a, 256_000)).shares / a
    other = cpu_tune(of(b, 256_000)).shares / b
    assert abs(ratio - other) <= 0.51 / a + 0.51 / b, "rounding is all that may differ"


@given(CORES)
def test_the_quota_is_the_limit(limit):
    assert cpu_tune(of(10, limit)).quota == limit * 100


def test_what_is_too_little_for_the_kernel_becomes_its_least():
    assert (cpu_tune(of(1, 5)).shares, cpu_tune(of(1, 5)).quota) == (2, 1000)


def test_cores_and_the_cpus_that_hold_them():
    assert cpu_tune(of(1000, 1000)).shares == 1024
    assert [of(10, limit).vcpus for limit in (10, 1000, 1001, 2500)] == [1, 1, 2, 3]


def test_the_contract_names_every_resource():
    lines = contract(Guarantee(500, 1500, 512 << 20, 20_000_000, 100_000_000, 4 << 30))
    assert [line.resource for line in lines] == ["cpu", "memory", "network", "disk"]
    assert [line.asked for line in lines] == ["0.5..1.5 cores", "512M", "20Mbit..100Mbit", "4G"]
    assert all(line.mechanism for line in lines), "a promise without a mechanism is none"
    assert "512" in lines[0].mechanism and "150000/100000" in lines[0].mechanism
