"""What dom0 does at each start of a domain is what phx would do, and nothing for domains of others."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import domain, guarantee
from cluster.hosts import hook, tc
from cluster.hosts.shaping import Shape
from tests.invented import drawn

MACHINE = replace(drawn().nodes[0].machine, virtualization="pv")


def test_golden(golden):
    golden("xen/hook.txt", hook.script(domain.xml(MACHINE, "context")))


def test_what_comes_before_a_start(golden):
    golden("xen/hook-ahead.txt", hook.ahead(domain.xml(MACHINE, "context")))
    assert hook.ahead("<domain><name>other</name></domain>") == ""


@pytest.mark.parametrize("path", ["/etc/cron.d/x", "/run/libvirt/philoxenia/../../../etc/x", ""])
def test_no_folder_is_made_elsewhere(path):
    text = domain.xml(MACHINE, "context").replace(MACHINE.channel, path)
    assert "mkdir" not in hook.ahead(text)


@pytest.mark.parametrize(("op", "status"), [("prepare", 1), ("started", 0), ("release", 0)])
def test_only_what_comes_before_a_start_can_prevent_it(op, status, monkeypatch):
    said = []
    fails = SimpleNamespace(returncode=1, stderr="nft: no")
    monkeypatch.setattr(hook.subprocess, "run", lambda *_, **__: fails)
    monkeypatch.setattr(hook.syslog, "syslog", said.append)
    monkeypatch.setattr(hook.sys, "argv", ["libxl", "demo.head-1", op, "begin", "-"])
    monkeypatch.setattr(hook.sys, "stdin", io.StringIO(domain.xml(MACHINE, "context")))
    if status:
        with pytest.raises(
            SystemExit, match="its frames cannot be kept to its own addresses: nft: no"
        ):
            hook.main()
    else:
        hook.main()
    assert said == ([] if op == "release" else ["philoxenia: demo.head-1 is not held: nft: no"])


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
