"""What dom0 does at each start of a domain is what phx would do, and nothing for domains of others."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster import domain, guarantee
from cluster.hosts import hook, tc
from cluster.hosts.shaping import Shape
from tests.invented import drawn

MACHINE = replace(drawn().nodes[0].machine, virtualization="pv")


def test_golden(golden):
    golden("xen/hook.txt", hook.script(domain.xml(MACHINE, "context")))


def test_it_is_what_phx_does():
    told = hook.script(domain.xml(MACHINE, "context"))
    given = MACHINE.guarantee
    assert f"-c {guarantee.xen_cpu(given).cap}\n" in told
    batch = tc._batch(MACHINE.tap, Shape(given.in_guarantee, given.in_limit), True)
    assert [f"tc {line}" for line in batch.splitlines()] == told.splitlines()[1:5]


@given(st.integers(8, 10**11))
def test_the_rate_too(bits):
    assert hook.rate(bits) == guarantee.vif_rate(bits)


def test_domains_of_others_are_left_alone():
    assert hook.script("<domain><name>other</name></domain>") == ""


def test_a_name_is_no_command():
    evil = domain.xml(MACHINE, "context").replace("demo.head-1", "x'; reboot; '")
    assert "x'\"'\"'; reboot;" in hook.script(evil)
