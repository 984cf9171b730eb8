"""A site whose demo cluster runs on one host that is all in memory, for what changes promises of guests that run."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

from cluster import deploy, domain, launch, leaving, network, wait
from cluster.actions import Launch
from cluster.contract import asked, renegotiate
from cluster.contract.enforce import shapes
from cluster.guarantee import settings
from cluster.hosts.fake import FakeHypervisor
from cluster.hosts.local import Here
from cluster.site import Site
from tests.invented import CLUSTER, IMAGE, LAB, drawn

NODES = ("head-1", "worker-1", "worker-2")
PLAN = drawn()


class Killed(BaseException):
    """kill -9, as far as a test can have it in its own process."""


class Bench(FakeHypervisor):
    """A hypervisor and the queues of its host. After `fuse` more effects, whoever causes them is killed."""

    def __init__(self):
        super().__init__()
        self.held, self.fuse, self.stuck, self.effects = {}, -1, None, 0

    def burn(self):
        self.effects += 1
        if self.fuse == 0:
            raise Killed
        self.fuse -= 1

    def tune(self, name, setting):
        self.burn()
        if self.stuck != (name, type(setting)):
            super().tune(name, setting)

    def remark(self, name, guarantee):
        self.burn()
        super().remark(name, guarantee)

    # queues

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, tap):
        return self.held.get(tap, (None, None))

    def ensure(self, tap, *shapes):
        if self.held.get(tap) == shapes:
            return False
        self.burn()
        self.held[tap] = shapes
        return True


@contextlib.contextmanager
def prepared(tmp_path, monkeypatch):
    """A site with one host, all in memory."""
    found, bench = Site(tmp_path), Bench()
    found.bench = bench
    found.catalog = SimpleNamespace(
        root=tmp_path, get=lambda *_: IMAGE, hold=lambda *_: None, release=lambda *_: None, folder=lambda _: tmp_path
    )  # fmt: skip
    host = replace(LAB, kind="libvirt", folder=str(tmp_path), run=str(tmp_path), accelerator="qemu")
    found.ledger.put_host(host)
    reach = Here(host)
    monkeypatch.setattr(reach, "queues", lambda: bench)
    monkeypatch.setattr(Site, "connect", lambda *_: bench)
    monkeypatch.setattr(Site, "reach", lambda *_: reach)

    def apply(_plan, actions, _reach, hypervisor, *_):
        for node in (a.node for a in actions if isinstance(a, Launch)):
            hypervisor.start(node.domain, domain.xml(node.machine, node.context))
            hypervisor.vouch(node.domain)

    monkeypatch.setattr(deploy, "apply", apply)
    monkeypatch.setattr(deploy, "guard", lambda *_: [])
    monkeypatch.setattr("cluster.draft._demand_guard", lambda *_: None)
    monkeypatch.setattr(wait.Wait, "until_ready", lambda self: {})
    monkeypatch.setattr(leaving, "leave", lambda *_: None)
    # The file is read again for each of hundreds of requests; here it is the same one.
    monkeypatch.setattr(launch, "parse", cache(launch.parse))
    yield found
    found.ledger.close()


@contextlib.contextmanager
def running(tmp_path, monkeypatch):
    """The same with the demo cluster running."""
    with prepared(tmp_path, monkeypatch) as found:
        up(found)
        deploy.shape(PLAN, found.reach(found.ledger.host("lab")))
        yield found


def up(site, text=CLUSTER, **more):
    path = site.home / "demo.yaml"
    path.write_text(text)
    return launch.up(site, path, None, False, lambda _: None, **more)


def ask(site, whom, *words, restart=False, report=lambda _: None):
    found = renegotiate.addressed(site, whom)
    return renegotiate.renegotiate(site, found, asked.asked(words), restart, report)


def marks(site):
    return {s.mark.node: s.mark.guarantee for s in site.bench.observe()}


def in_force(site, node):
    """Whether all that a node's mark promises, and nothing else, is in force."""
    host, given = site.ledger.host("lab"), marks(site)[node]
    now = site.bench.tuned(domain.name("demo", node))
    told = settings(given, host.driver, host.cgroup, host.cpu)
    held = site.bench.held.get(network.tap("demo", node))
    return all(now.holds(s) for s in told) and held == shapes(given)
