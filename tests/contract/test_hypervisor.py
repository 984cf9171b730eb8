"""What every hypervisor must do, said once: over the fake in memory and over libvirt's own test driver.

A real QEMU is one more entry of `MAKERS`, marked vm. The fake and the test driver prove bookkeeping, not that a guest
would boot.
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import replace

import pytest

from builder.errors import EnvironmentLacks, PhiloxeniaError, WorkFailed
from cluster import domain, network
from cluster.guarantee import Balloon, CpuTune
from cluster.hosts.fake import FakeHypervisor
from cluster.hosts.hypervisor import Libvirt
from cluster.hosts.port import Hypervisor
from tests.invented import drawn, promise

NODE = """\
<node>
  <cpu><num>8</num><mhz>2000</mhz><model>invented</model><active>8</active>
    <nodes>1</nodes><sockets>1</sockets><cores>8</cores><threads>1</threads></cpu>
  <memory>16777216</memory>
</node>
"""
FOREIGN = """\
<domain type="{type}"><name>demo.foreign</name><memory unit="KiB">65536</memory><vcpu>1</vcpu>
<metadata><o:node xmlns:o="urn:other" cluster="demo" node="foreign"/></metadata>
<os><type>hvm</type></os></domain>
"""
FOREIGN_NET = "<network><name>phx-foreign</name><bridge name='virbr9'/><ip address='10.9.0.1' prefix='24'/></network>"


class Bench:
    """One hypervisor, the domain type that it takes, and a way around the port to what is not ours."""

    def __init__(self, port: Hypervisor, type_: str) -> None:
        self.port, self.type = port, type_

    def nodes(self):
        """(name, xml) of an invented cluster's nodes, of a type that this hypervisor takes."""
        return [
            (n.domain, domain.xml(n.machine, n.context).replace('type="qemu"', f'type="{self.type}"', 1))
            for n in drawn().nodes
        ]  # fmt: skip

    def add_foreign(self) -> None:
        text = FOREIGN.format(type=self.type)
        if isinstance(self.port, FakeHypervisor):
            self.port.domains["demo.foreign"] = (text, "running")
            self.port.nets["phx-foreign"] = FOREIGN_NET
        else:
            connection = self.port._connection
            connection.defineXML(text).create()
            connection.networkDefineXML(FOREIGN_NET).create()

    def foreign_lives(self) -> bool:
        if isinstance(self.port, FakeHypervisor):
            return "demo.foreign" in self.port.domains and "phx-foreign" in self.port.nets
        connection = self.port._connection
        domains = {d.name() for d in connection.listAllDomains() if d.isActive()}
        networks = {n.name() for n in connection.listAllNetworks() if n.isActive()}
        return "demo.foreign" in domains and "phx-foreign" in networks

    def stop(self, name: str, how: str) -> None:
        """As from outside: `off` or `paused`."""
        if isinstance(self.port, FakeHypervisor):
            self.port.domains[name] = (self.port.domains[name][0], how)
        elif how == "off":
            self.port._connection.lookupByName(name).destroy()
        else:
            self.port._connection.lookupByName(name).suspend()


def fake(_folder):
    return Bench(FakeHypervisor(), "qemu")


def driver(folder):
    (folder / "node.xml").write_text(NODE)
    return Bench(Libvirt(f"test://{folder}/node.xml"), "test")


MAKERS = {"fake": fake, "libvirt-test": driver}


@pytest.fixture(params=sorted(MAKERS))
def bench(request, tmp_path):
    found = MAKERS[request.param](tmp_path)
    yield found
    found.port.close()


def states(port):
    return {s.name: s.state for s in port.observe()}


def test_facts(bench):
    facts = bench.port.facts()
    assert facts.cores >= 1 and facts.memory >= 1 << 30
    assert facts.hypervisor and facts.version.count(".") == 2 and facts.types


def test_nothing_is_ours_at_first(bench):
    assert bench.port.observe() == () and bench.port.networks() == {}


def test_started_is_seen_running_with_its_mark(bench):
    for name, xml in reversed(bench.nodes()):
        bench.port.start(name, xml)
    seen = bench.port.observe()
    assert [s.name for s in seen] == ["demo.head-1", "demo.worker-1", "demo.worker-2"], "by name"
    assert {s.state for s in seen} == {"running"}
    for s, node in zip(seen, drawn().nodes, strict=True):
        assert s.mark == domain.Mark(
            "demo", node.name, node.machine.role, domain.digest(node.machine), node.context,
            node.machine.guarantee,
        )  # fmt: skip


def test_the_same_domain_cannot_be_started_twice(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    with pytest.raises(WorkFailed, match=f"domain {name} cannot be started"):
        bench.port.start(name, xml)
    assert states(bench.port) == {name: "running"}


@pytest.mark.parametrize("how", ["off", "paused"])
def test_resume_goes_on_and_may_be_said_twice(bench, how):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    bench.stop(name, how)
    assert states(bench.port) == {name: how}
    for _ in range(2):
        bench.port.resume(name)
        assert states(bench.port) == {name: "running"}


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("save", "off")])
def test_what_stood_goes_on(bench, verb, state):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    getattr(bench.port, verb)(name)
    assert states(bench.port) == {name: state}
    bench.port.resume(name)
    assert states(bench.port) == {name: "running"}


def test_what_was_saved_can_be_removed(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    bench.port.pause(name)
    bench.port.save(name)
    bench.port.remove(name)
    assert states(bench.port) == {}


def test_what_is_not_there_cannot_be_resumed(bench):
    with pytest.raises(WorkFailed, match=r"domain demo\.nobody cannot be started"):
        bench.port.resume("demo.nobody")


@pytest.mark.parametrize("how", ["running", "off", "paused"])
def test_remove_in_any_state_and_twice(bench, how):
    (name, xml), (other, other_xml) = bench.nodes()[:2]
    bench.port.start(name, xml)
    bench.port.start(other, other_xml)
    if how != "running":
        bench.stop(name, how)
    for _ in range(2):
        bench.port.remove(name)
        assert states(bench.port) == {other: "running"}
    bench.port.start(name, xml)
    assert states(bench.port)[name] == "running", "the name is free again"


def test_only_what_runs_has_counters_and_they_only_grow(bench):
    nodes = bench.nodes()
    assert bench.port.usage() == ()
    for name, xml in reversed(nodes):
        bench.port.start(name, xml)
    bench.stop(nodes[1][0], "off")
    before, after = bench.port.usage(), bench.port.usage()
    assert [u.name for u in before] == ["demo.head-1", "demo.worker-2"], "by name"
    for then, now in zip(before, after, strict=True):
        given = then.mark.guarantee
        assert (then.mark.cluster, f"demo.{then.mark.node}") == ("demo", then.name)
        assert then.run == now.run and then.memory == then.memory_limit == given.memory_min
        for counter in ("cpu", "received", "sent", "read", "written"):
            assert 0 <= getattr(then, counter) <= getattr(now, counter), counter


def test_a_domain_that_was_started_again_says_so(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    (first,) = bench.port.usage()
    bench.port.remove(name)
    bench.port.start(name, xml)
    (second,) = bench.port.usage()
    assert first.run != second.run


def test_networks_start_and_go_and_twice(bench):
    xml = network.xml("demo", ipaddress.IPv4Network("10.7.0.0/24"), walled=False)
    for _ in range(2):
        bench.port.start_network("phx-demo", xml)
        assert bench.port.networks() == {"phx-demo": "demo"}
    for _ in range(2):
        bench.port.remove_network("phx-demo")
        assert bench.port.networks() == {}
    bench.port.start_network("phx-demo", xml)
    assert bench.port.networks() == {"phx-demo": "demo"}


def test_what_is_not_ours_is_neither_seen_nor_touched(bench):
    bench.add_foreign()
    nodes = bench.nodes()
    bench.port.start_network(
        "phx-demo", network.xml("demo", ipaddress.IPv4Network("10.7.0.0/24"), walled=False)
    )
    for name, xml in nodes:
        bench.port.start(name, xml)
    assert "demo.foreign" not in states(bench.port)
    assert "demo.foreign" not in {u.name for u in bench.port.usage()}
    assert bench.port.networks() == {"phx-demo": "demo"}
    for name, _ in nodes:
        bench.port.remove(name)
    bench.port.remove_network("phx-demo")
    assert bench.foreign_lives()


def test_not_even_when_it_is_named(bench):
    """A domain of another that happens to be called CLUSTER.NODE."""
    bench.add_foreign()
    for what, act in (
        ("domain demo.foreign", lambda: bench.port.remove("demo.foreign")),
        ("network phx-foreign", lambda: bench.port.remove_network("phx-foreign")),
        ("network phx-foreign", lambda: bench.port.start_network("phx-foreign", FOREIGN_NET)),
    ):
        with pytest.raises(WorkFailed) as caught:
            act()
        assert str(caught.value) == f"{what} is not ours: it was not made by phx"
    assert bench.foreign_lives()


def test_a_copy_under_another_name_is_not_ours(bench):
    """`virt-clone` keeps the metadata."""
    name, xml = bench.nodes()[0]
    bench.port.start("demo.copy", xml.replace(f"<name>{name}</name>", "<name>demo.copy</name>"))
    with pytest.raises(WorkFailed, match=r"domain demo\.copy is not ours"):
        bench.port.remove("demo.copy")
    assert states(bench.port) == {"demo.copy": "running"}


def test_close_may_be_said_twice(bench):
    bench.port.close()
    bench.port.close()


def test_a_balloon_is_told_and_read_back(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    assert bench.port.tuned(name).balloon == Balloon(512 << 20)
    for _ in range(2):
        bench.port.tune(name, Balloon(256 << 20))
        now = bench.port.tuned(name)
        assert now.holds(Balloon(256 << 20)) and not now.holds(Balloon(512 << 20))
        assert (now.vcpus, now.memory, now.running) == (1, 512 << 20, True), "what it booted with"
    bench.stop(name, "off")
    bench.port.tune(name, Balloon(384 << 20))
    bench.port.resume(name)
    assert bench.port.tuned(name).balloon == Balloon(384 << 20), "its definition has it too"


def test_a_mark_is_written_again_and_only_its_guarantee_changes(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    (before,) = bench.port.observe()
    given = promise(cpu=750, memory=256 << 20)
    for _ in range(2):
        bench.port.remark(name, given)
        (after,) = bench.port.observe()
        assert after == replace(before, mark=replace(before.mark, guarantee=given))
    bench.stop(name, "off")
    bench.port.resume(name)
    assert bench.port.observe()[0].mark.guarantee == given, "and stays"


def test_a_domain_that_starts_again_as_another_keeps_its_name(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    larger = xml.replace(">524288</memory>", ">1048576</memory>")
    bench.port.restart(name, larger)
    (seen,) = bench.port.observe()
    assert (seen.name, seen.state, seen.memory) == (name, "running", 1 << 30)


def test_what_is_not_ours_is_not_tuned_marked_or_started_again(bench):
    bench.add_foreign()
    for act in (
        lambda: bench.port.remark("demo.foreign", promise()),
        lambda: bench.port.restart("demo.foreign", bench.nodes()[0][1]),
    ):
        with pytest.raises(WorkFailed, match=r"domain demo\.foreign is not ours"):
            act()
    with pytest.raises(WorkFailed):
        bench.port.tuned("demo.nobody")
    with pytest.raises(WorkFailed):
        bench.port.tune("demo.nobody", Balloon(1 << 30))
    assert bench.foreign_lives()


def test_a_domain_starts_with_its_host_when_it_is_told_so(bench):
    name, xml = bench.nodes()[0]
    bench.port.start_network(
        "phx-demo", network.xml("demo", ipaddress.IPv4Network("10.7.0.0/24"), walled=True)
    )
    bench.port.start(name, xml)
    assert not bench.port.observe()[0].autostart
    for wanted, changed in ((True, True), (True, False), (False, True), (False, False)):
        assert bench.port.autostart(name, wanted) is changed
        assert bench.port.observe()[0].autostart is wanted


def test_what_becomes_of_a_domain_that_crashes_is_told_and_seen(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml.replace("<on_crash>destroy", "<on_crash>restart"))
    assert bench.port.observe()[0].crash == "restart"
    assert bench.port.crash(name, "restart") is False
    if bench.type != "test":  # whose driver can be told none
        for wanted, changed in (("destroy", True), ("destroy", False), ("restart", True)):
            assert bench.port.crash(name, wanted) is changed
            assert bench.port.observe()[0].crash == wanted


def test_a_domain_stays_on_the_cpus_that_it_is_told(bench):
    name, xml = bench.nodes()[1]
    bench.port.start(name, xml)
    assert bench.port.observe()[0].pin == ""
    assert bench.port.pin(name, "") is False
    if bench.type != "test":  # whose driver pins nobody
        for wanted, changed in (("0-1", True), ("0-1", False), ("1", True)):
            assert bench.port.pin(name, wanted) is changed
            assert bench.port.observe()[0].pin == wanted
        assert bench.port.pin(name, "") is False, "it is let go by its next start alone"
        bench.port.restart(name, xml)
        assert bench.port.observe()[0].pin == ""


def test_who_runs_or_stands_is_alive(bench):
    (one, xml), (two, other), _ = bench.nodes()
    bench.port.start(one, xml)
    bench.port.start(two, other)
    before = bench.port.alive() - {one, two}
    bench.stop(one, "paused")
    assert bench.port.alive() == before | {one, two}
    bench.stop(two, "off")
    assert bench.port.alive() == before | {one}


def test_who_is_started_again_is_not_vouched_for(bench):
    name, xml = bench.nodes()[0]
    bench.port.start(name, xml)
    assert not bench.port.observe()[0].vouched
    for _ in range(2):
        bench.port.vouch(name)
        assert bench.port.observe()[0].vouched
    bench.stop(name, "paused")
    bench.port.resume(name)
    bench.port.remark(name, promise(cpu=750))
    assert bench.port.observe()[0].vouched, "it is the same run"
    bench.stop(name, "off")
    bench.port.resume(name)
    assert not bench.port.observe()[0].vouched
    bench.port.vouch("demo.nobody")


# Only what is libvirt's.


def test_a_setting_that_the_driver_does_not_know_fails_in_our_words(tmp_path):
    """libvirt's Python raises LookupError for it, which is no libvirtError."""
    bench = driver(tmp_path)
    with contextlib.closing(bench.port):
        name, xml = bench.nodes()[0]
        bench.port.start(name, xml)
        with pytest.raises(WorkFailed, match="cannot be told: cgroup shares 7"):
            bench.port.tune(name, CpuTune(7, 50_000))
        assert bench.port.tuned(name).cpu is None, "nor does it tell"


def test_a_network_that_is_defined_and_off_is_started(tmp_path):
    """What the machine's end leaves."""
    bench = driver(tmp_path)
    with contextlib.closing(bench.port):
        xml = network.xml("demo", ipaddress.IPv4Network("10.7.0.0/24"), walled=False)
        bench.port._connection.networkDefineXML(xml)
        assert bench.port.networks() == {}
        bench.port.start_network("phx-demo", xml)
        assert bench.port.networks() == {"phx-demo": "demo"}


def test_no_libvirt_there_says_so():
    with pytest.raises(EnvironmentLacks, match="no libvirt at qemu") as caught:
        Libvirt("qemu+unix:///system?socket=/nonexistent/libvirt-sock")
    assert caught.value.__cause__ is not None


def test_a_domain_that_libvirt_refuses_fails_in_our_words(tmp_path):
    bench = driver(tmp_path)
    with contextlib.closing(bench.port), pytest.raises(PhiloxeniaError) as caught:
        bench.port.start("x", "<domain type='test'><name>x</name></domain>")
    assert isinstance(caught.value, WorkFailed) and isinstance(caught.value.__cause__, WorkFailed)
    assert str(caught.value) == "domain x cannot be started"


def test_libvirt_prints_nothing_itself(tmp_path, capfd):
    bench = driver(tmp_path)
    with contextlib.closing(bench.port):
        bench.port.remove("nobody")
    said = capfd.readouterr()
    assert said.out == said.err == ""
