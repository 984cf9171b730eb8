"""The port in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree import ElementTree

from builder.errors import WorkFailed
from cluster import definition
from cluster.domain import mark
from cluster.elements import Crash, pinned
from cluster.guarantee import Guarantee, Setting
from cluster.hosts.facts import HostFacts
from cluster.hosts.live import Tuned
from cluster.hosts.port import (
    Seen,
    State,
    claim_domain,
    claim_network,
    cluster_of,
    seen,
)
from cluster.metering.usage import Usage


@dataclass(slots=True)
class FakeHypervisor:
    """For tests of what uses a hypervisor. Proves nothing about guests."""

    domains: dict[str, tuple[str, State]] = field(default_factory=dict)
    counters: dict[str, dict[str, int | None]] = field(default_factory=dict)
    """Domain -> what a test says of it, besides nothing: fields of a Usage."""
    runs: dict[str, int] = field(default_factory=dict)
    nets: dict[str, str] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    """Domains that start with their host."""
    ready: set[str] = field(default_factory=set)
    """Domains that are vouched for."""

    def facts(self) -> HostFacts:
        return HostFacts("fake", "0.0.0", 4, 8 << 30, ("qemu",))

    def observe(self) -> tuple[Seen, ...]:
        told = (seen(name, xml, state) for name, (xml, state) in sorted(self.domains.items()))
        return tuple(
            replace(ours, autostart=ours.name in self.starting, vouched=ours.name in self.ready)
            for ours in told if ours is not None
        )  # fmt: skip

    def alive(self) -> frozenset[str]:
        return frozenset(n for n, (_, s) in self.domains.items() if s in ("running", "paused"))

    def tune(self, name: str, setting: Setting) -> None:
        xml, state = self._there(name)
        self.domains[name] = (definition.tuned(xml, setting), state)

    def tuned(self, name: str) -> Tuned:
        xml, state = self._there(name)
        known = mark(xml)
        disk = known.guarantee.disk if known else None
        return Tuned(*definition.tuning(xml), *definition.size(xml), disk, state == "running")

    def spare(self, name: str) -> int | None:
        self._there(name)
        return None

    def remark(self, name: str, guarantee: Guarantee) -> None:
        xml, state = self._there(name)
        known = claim_domain(name, xml)
        self.domains[name] = (definition.remarked(xml, replace(known, guarantee=guarantee)), state)

    def autostart(self, name: str, wanted: bool) -> bool:
        self._there(name)
        before, known = name in self.starting, self.starting
        (known.add if wanted else known.discard)(name)
        return before != wanted

    def crash(self, name: str, wanted: Crash) -> bool:
        xml, state = self._there(name)
        claim_domain(name, xml)
        if definition.crash(xml) == wanted:
            return False
        root = ElementTree.fromstring(xml)
        found = root.find("on_crash")
        assert found is not None
        found.text = wanted
        self.domains[name] = (ElementTree.tostring(root, encoding="unicode"), state)
        return True

    def pin(self, name: str, cpus: str) -> bool:
        xml, state = self._there(name)
        claim_domain(name, xml)
        if not cpus or definition.pin(xml) == cpus:
            return False
        root = ElementTree.fromstring(xml)
        tune = root.find("cputune")
        assert tune is not None
        for old in tune.findall("vcpupin"):
            tune.remove(old)
        pinned(tune, definition.size(xml)[0], cpus)
        self.domains[name] = (ElementTree.tostring(root, encoding="unicode"), state)
        return True

    def vouch(self, name: str) -> None:
        if self.domains.get(name, ("", "off"))[1] != "off":
            self.ready.add(name)

    def restart(self, name: str, xml: str) -> None:
        claim_domain(name, self._there(name)[0])
        self.domains[name] = (xml, "running")
        self.ready.discard(name)

    def _there(self, name: str) -> tuple[str, State]:
        if name not in self.domains:
            raise WorkFailed(f"there is no domain {name}")
        return self.domains[name]

    def usage(self) -> tuple[Usage, ...]:
        found = []
        for s in (s for s in self.observe() if s.state in ("running", "paused")):
            size = s.mark.guarantee.memory_min
            plain = {"run": self.runs.get(s.name, 0), "cpu": 0, "memory": size, "memory_limit": size,
                     "received": 0, "sent": 0, "read": 0, "written": 0}  # fmt: skip
            told: Any = plain | self.counters.get(s.name, {})
            found.append(Usage(s.name, s.mark, **told))
        return tuple(found)

    def definition(self, name: str) -> str:
        text = self.domains[name][0] if name in self.domains else ""
        if text:
            claim_domain(name, text)
        return text

    def networks(self) -> dict[str, str]:
        found = ((name, cluster_of(xml)) for name, xml in self.nets.items())
        return {name: cluster for name, cluster in found if cluster is not None}

    def start_network(self, name: str, xml: str) -> None:
        claim_network(name, self.nets.setdefault(name, xml))

    def remove_network(self, name: str) -> None:
        if name in self.nets:
            claim_network(name, self.nets[name])
            del self.nets[name]

    def start(self, name: str, xml: str) -> None:
        if name in self.domains and self.domains[name][1] == "running":
            raise WorkFailed(f"domain {name} cannot be started")
        self.domains[name] = (xml, "running")
        self.ready.discard(name)
        self.runs[name] = self.runs.get(name, 0) + 1

    def resume(self, name: str) -> None:
        if name not in self.domains:
            raise WorkFailed(f"domain {name} cannot be started")
        if self.domains[name][1] == "off":
            self.ready.discard(name)
        self.domains[name] = (self.domains[name][0], "running")

    def pause(self, name: str) -> None:
        self._stop(name, "paused")

    def save(self, name: str) -> None:
        self._stop(name, "off")

    def _stop(self, name: str, state: State) -> None:
        if self.domains.get(name, ("", "off"))[1] == "off":
            raise WorkFailed(f"domain {name} does not run")
        self.domains[name] = (self.domains[name][0], state)

    def remove(self, name: str) -> None:
        if name in self.domains:
            claim_domain(name, self.domains[name][0])
            del self.domains[name]
            self.starting.discard(name)

    def close(self) -> None:
        pass
