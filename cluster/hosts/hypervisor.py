"""The only door to libvirt: a small port, its real implementation, and a fake in memory for fast tests.

A host's domains and networks are ours when their metadata says so; no other is seen or touched here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol
from xml.etree import ElementTree

from builder.errors import EnvironmentLacks, WorkFailed
from cluster import definition
from cluster import domain as domains
from cluster import network as networks
from cluster.domain import Mark, mark
from cluster.elements import Crash
from cluster.guarantee import Guarantee, Setting
from cluster.hosts import live
from cluster.hosts.facts import HostFacts, facts_of
from cluster.hosts.live import Tuned
from cluster.metering.usage import Usage, added
from cluster.network import NAMESPACE

CUT = "phx host ls shows whether the host answers; run the same command again: it goes on"
State = Literal["running", "paused", "off", "crashed"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One of our domains as it is now. `vcpus` and `memory` (bytes) are what it booted with, and can have at most.

    autostart  whether it starts when its host does
    crash      what becomes of it when its kernel crashes
    vouched    whether it became ready, by our own witness, since it was started
    """

    name: str
    mark: Mark
    state: State
    vcpus: int = 0
    memory: int = 0
    autostart: bool = False
    vouched: bool = True
    crash: Crash = "destroy"


class Hypervisor(Protocol):
    """What we ask of a host's libvirt. Every verb may be said twice."""

    def facts(self) -> HostFacts: ...

    def observe(self) -> tuple[Seen, ...]:
        """Our domains, by name."""
        ...

    def alive(self) -> frozenset[str]:
        """Names of all domains that run or are paused, others' too: one question, however many there are."""
        ...

    def usage(self) -> tuple[Usage, ...]:
        """What our running domains have used since they were started, by name."""
        ...

    def tune(self, name: str, setting: Setting) -> None:
        """Tell a domain one thing, now if it runs and for its next start. WorkFailed if the driver refuses it."""
        ...

    def tuned(self, name: str) -> Tuned:
        """What is in force of a domain; WorkFailed if there is none."""
        ...

    def spare(self, name: str) -> int | None:
        """Bytes that a running guest could do without now; None when it does not say."""
        ...

    def remark(self, name: str, guarantee: Guarantee) -> None:
        """Write another guarantee into the domain's mark. WorkFailed if it is not ours."""
        ...

    def autostart(self, name: str, wanted: bool) -> bool:
        """Let a domain start when its host does, with its network, or no longer; whether anything had to change."""
        ...

    def crash(self, name: str, wanted: Crash) -> bool:
        """Let another thing become of a domain whose kernel crashes, now and later; whether anything had to change.
        WorkFailed where the driver does not know of it (Xen's, of one that runs).
        """
        ...

    def vouch(self, name: str) -> None:
        """Note in a running domain that it became ready: whoever starts it again, the note is gone. Silent when the
        domain is gone.
        """
        ...

    def restart(self, name: str, xml: str) -> None:
        """Shut a domain down and start it as `xml`; its disks stay. WorkFailed if it is not ours."""
        ...

    def definition(self, name: str) -> str:
        """The XML of one of our domains as it is now; "" when there is none."""
        ...

    def networks(self) -> dict[str, str]:
        """Our networks that are up: libvirt's name -> cluster."""
        ...

    def start_network(self, name: str, xml: str) -> None:
        """Define and start unless it is up. WorkFailed if one of that name is not ours."""
        ...

    def remove_network(self, name: str) -> None:
        """Stop and undefine; silent when there is none. WorkFailed if it is not ours."""
        ...

    def start(self, name: str, xml: str) -> None:
        """Define and start a domain that is not there."""
        ...

    def resume(self, name: str) -> None:
        """Start a domain that is defined and off, from where it was saved if it was; let a paused one go on."""
        ...

    def pause(self, name: str) -> None:
        """Stop a running domain where it is; it keeps its memory."""
        ...

    def save(self, name: str) -> None:
        """Write a running or paused domain's memory to the host's disk and end it; `resume` brings it back."""
        ...

    def remove(self, name: str) -> None:
        """Stop at once and undefine; silent when there is none. WorkFailed if it is not ours."""
        ...

    def close(self) -> None: ...


class Libvirt:
    """The port over a libvirt connection. Raises EnvironmentLacks if it cannot be had.

    held  whether the connection is another's, who goes on with it when we close
    """

    def __init__(self, uri: str, held: bool = False) -> None:
        try:
            import libvirt
        except ImportError:
            raise EnvironmentLacks(
                "Python's libvirt module is missing",
                "apt-get install python3-libvirt, and use /usr/bin/python3 (see .ci/setup)",
            ) from None
        self._libvirt: Any = libvirt
        self._held = held
        # libvirt prints its errors to stderr unless somebody listens.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as cause:
            raise EnvironmentLacks(f"no libvirt at {uri}", "phx host ls shows what runs") from cause

    def close(self) -> None:
        if not self._held:
            with contextlib.suppress(self._libvirt.libvirtError):
                self._connection.close()

    def connected(self) -> bool:
        """Whether the connection is one still: it ends with libvirtd, and with the way there."""
        try:
            return bool(self._connection.isAlive())
        except self._libvirt.libvirtError:
            return False

    @contextlib.contextmanager
    def _door(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._libvirt.libvirtError as cause:
            if not self.connected():
                what = f"{doing}: the connection to the host's libvirt was cut"
                raise WorkFailed(what, CUT) from WorkFailed(str(cause))
            raise WorkFailed(doing) from WorkFailed(str(cause))

    def facts(self) -> HostFacts:
        with self._door("the host does not tell its facts"):
            return facts_of(self._connection)

    def observe(self) -> tuple[Seen, ...]:
        lib = self._libvirt
        states: dict[int, State] = {
            lib.VIR_DOMAIN_RUNNING: "running", lib.VIR_DOMAIN_BLOCKED: "running",
            lib.VIR_DOMAIN_PAUSED: "paused", lib.VIR_DOMAIN_CRASHED: "crashed",
            lib.VIR_DOMAIN_SHUTDOWN: "running", lib.VIR_DOMAIN_PMSUSPENDED: "paused",
        }  # fmt: skip
        found = []
        with self._door("the host does not list its domains"):
            flag = lib.VIR_CONNECT_LIST_DOMAINS_AUTOSTART
            starting = {d.name() for d in self._connection.listAllDomains(flag)}
            for domain in self._connection.listAllDomains():
                try:
                    text, (state, reason) = domain.XMLDesc(), domain.state()
                    if (state, reason) == (lib.VIR_DOMAIN_SHUTOFF, lib.VIR_DOMAIN_SHUTOFF_CRASHED):
                        state = lib.VIR_DOMAIN_CRASHED
                except lib.libvirtError as cause:
                    if cause.get_error_code() == lib.VIR_ERR_NO_DOMAIN:
                        continue  # it went while we looked
                    raise
                if (seen := _seen(domain.name(), text, states.get(state, "off"))) is not None:
                    found.append(replace(seen, autostart=seen.name in starting))
        return tuple(sorted(found, key=lambda s: s.name))

    def alive(self) -> frozenset[str]:
        with self._door("the host does not list its domains"):
            lib = self._libvirt
            flags = lib.VIR_CONNECT_LIST_DOMAINS_RUNNING | lib.VIR_CONNECT_LIST_DOMAINS_PAUSED
            return frozenset(d.name() for d in self._connection.listAllDomains(flags))

    def usage(self) -> tuple[Usage, ...]:
        found = []
        with self._door("the host does not tell what its domains use"):
            for domain in self._connection.listAllDomains(
                self._libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
            ):
                try:
                    text = domain.XMLDesc()
                    known = mark(text)
                    if known is not None:
                        found.append(self._used(domain, known, ElementTree.fromstring(text)))
                except self._libvirt.libvirtError as cause:
                    if not self._went(cause):
                        raise
        return tuple(sorted(found, key=lambda u: u.name))

    def _used(self, domain: Any, known: Mark, told: ElementTree.Element) -> Usage:
        _, most, memory, _, cpu = domain.info()
        taps = [t.get("dev") for t in told.iterfind("devices/interface/target[@dev]")]
        disks = [t.get("dev") for t in told.iterfind("devices/disk/target[@dev]")]
        nics = [self._told(domain.interfaceStats, tap) or (None,) * 8 for tap in taps]
        blocks = [self._told(domain.blockStats, disk) or (None,) * 5 for disk in disks]
        return Usage(
            domain.name(), known, domain.ID(), cpu, memory << 10, most << 10,
            received=added(n[0] for n in nics), sent=added(n[4] for n in nics),
            read=added(b[1] for b in blocks), written=added(b[3] for b in blocks),
            waited=self._waited(domain), guest=self._ran(domain),
        )  # fmt: skip

    def _ran(self, domain: Any) -> int | None:
        """ns that its CPUs ran, without its emulator's other threads."""
        found = self._told(domain.vcpus)
        return sum(cpu[2] for cpu in found[0]) if found else None

    def _waited(self, domain: Any) -> int | None:
        """ns that its CPUs waited for a core, from the kernel's schedstat by way of QEMU's driver."""
        stats = self._told(
            self._connection.domainListGetStats, [domain], self._libvirt.VIR_DOMAIN_STATS_VCPU
        )
        told = stats[0][1] if stats else {}
        return added(told.get(f"vcpu.{n}.delay") for n in range(told.get("vcpu.maximum", 0)))

    def _told(self, ask: Any, *about: object) -> Any:
        """The answer; None where the driver, or the device's, knows none."""
        try:
            return ask(*about)
        except self._libvirt.libvirtError as cause:
            if self._went(cause):
                raise
            return None

    def _went(self, cause: Any) -> bool:
        """Whether a domain was gone, or off, by the time that it was asked."""
        lib = self._libvirt
        return cause.get_error_code() in (lib.VIR_ERR_NO_DOMAIN, lib.VIR_ERR_OPERATION_INVALID)

    def tune(self, name: str, setting: Setting) -> None:
        with self._door(f"domain {name} cannot be told: {setting}"):
            live.tell(self._libvirt, self._connection.lookupByName(name), setting)

    def tuned(self, name: str) -> Tuned:
        with self._door(f"domain {name} does not tell what is in force of it"):
            return live.told(self._libvirt, self._connection.lookupByName(name))

    def spare(self, name: str) -> int | None:
        with self._door(f"domain {name} does not tell what it uses"):
            return live.spare(self._libvirt, self._connection.lookupByName(name))

    def remark(self, name: str, guarantee: Guarantee) -> None:
        with self._door(f"domain {name} cannot be marked"):
            domain = self._connection.lookupByName(name)
            known = _claim_domain(name, domain.XMLDesc())
            lib, lasting = self._libvirt, live.flags(self._libvirt, domain)
            element = definition.element(replace(known, guarantee=guarantee))
            domain.setMetadata(lib.VIR_DOMAIN_METADATA_ELEMENT, element, "phx", NAMESPACE, lasting)

    def autostart(self, name: str, wanted: bool) -> bool:
        with self._door(f"domain {name} cannot be told whether it starts with its host"):
            domain = self._connection.lookupByName(name)
            known = _claim_domain(name, domain.XMLDesc())
            network = self._found(
                self._connection.networkLookupByName, networks.name(known.cluster)
            )
            if wanted and network is not None and not network.autostart():
                network.setAutostart(True)
            if bool(domain.autostart()) == wanted:
                return False
            domain.setAutostart(wanted)
            return True

    def crash(self, name: str, wanted: Crash) -> bool:
        with self._door(f"domain {name} cannot be told what becomes of it when it crashes"):
            domain = self._connection.lookupByName(name)
            text = domain.XMLDesc()
            _claim_domain(name, text)
            if definition.crash(text) == wanted:
                return False
            live.crash(self._libvirt, domain, wanted)
            return True

    def vouch(self, name: str) -> None:
        lib = self._libvirt
        with self._door(f"domain {name} cannot be marked"):
            domain = self._found(self._connection.lookupByName, name)
            if domain is not None and domain.isActive():
                element, live = lib.VIR_DOMAIN_METADATA_ELEMENT, lib.VIR_DOMAIN_AFFECT_LIVE
                domain.setMetadata(element, "<ready/>", "phxrun", domains.RUN, live)

    def restart(self, name: str, xml: str) -> None:
        with self._door(f"domain {name} cannot be started again"):
            domain = self._connection.lookupByName(name)
            _claim_domain(name, domain.XMLDesc())
            live.restart(self._libvirt, domain, xml, self._connection.defineXML)

    def definition(self, name: str) -> str:
        with self._door(f"domain {name} does not show its definition"):
            domain = self._found(self._connection.lookupByName, name)
            text: str = "" if domain is None else domain.XMLDesc()
        if text:
            _claim_domain(name, text)
        return text

    def networks(self) -> dict[str, str]:
        found = {}
        with self._door("the host does not list its networks"):
            for network in self._connection.listAllNetworks():
                cluster = _cluster(network.XMLDesc())
                if cluster is not None and network.isActive():
                    found[network.name()] = cluster
        return found

    def start_network(self, name: str, xml: str) -> None:
        with self._door(f"network {name} cannot be started"):
            network = self._found(self._connection.networkLookupByName, name)
            if network is None:
                network = self._connection.networkDefineXML(xml)
            _claim_network(name, network.XMLDesc())
            if not network.isActive():
                network.create()

    def remove_network(self, name: str) -> None:
        with self._door(f"network {name} cannot be removed"):
            network = self._found(self._connection.networkLookupByName, name)
            if network is not None:
                _claim_network(name, network.XMLDesc())
                if network.isActive():
                    network.destroy()
                if network.isPersistent():
                    network.undefine()

    def start(self, name: str, xml: str) -> None:
        with self._door(f"domain {name} cannot be started"):
            self._connection.defineXML(xml).create()

    def resume(self, name: str) -> None:
        with self._door(f"domain {name} cannot be started"):
            domain = self._connection.lookupByName(name)
            state = domain.state()[0]
            if state == self._libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
            elif not domain.isActive():
                domain.create()

    def pause(self, name: str) -> None:
        with self._door(f"domain {name} cannot be paused"):
            domain = self._connection.lookupByName(name)
            if domain.state()[0] != self._libvirt.VIR_DOMAIN_PAUSED:
                domain.suspend()

    def save(self, name: str) -> None:
        with self._door(f"domain {name} cannot be saved"):
            domain = self._connection.lookupByName(name)
            if domain.isActive():
                # Saved as paused it would come back as paused, and Xen's driver knows no flag that says otherwise.
                if domain.state()[0] == self._libvirt.VIR_DOMAIN_PAUSED:
                    domain.resume()
                domain.managedSave(0)

    def remove(self, name: str) -> None:
        lib = self._libvirt
        with self._door(f"domain {name} cannot be removed"):
            domain = self._found(self._connection.lookupByName, name)
            if domain is None:
                return
            _claim_domain(name, domain.XMLDesc())
            if domain.isActive():
                try:
                    domain.destroy()
                except lib.libvirtError as cause:
                    if cause.get_error_code() != lib.VIR_ERR_OPERATION_INVALID:
                        raise  # else it ended by itself in between
            if domain.hasManagedSaveImage():
                domain.managedSaveRemove()
            domain.undefine()

    def _found(self, look_up: Any, name: str) -> Any:
        lib = self._libvirt
        try:
            return look_up(name)
        except lib.libvirtError as cause:
            if cause.get_error_code() in (lib.VIR_ERR_NO_DOMAIN, lib.VIR_ERR_NO_NETWORK):
                return None
            raise


def _cluster(xml: str) -> str | None:
    """The cluster of a network of ours; None when it is another's."""
    ours = ElementTree.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}network")
    return None if ours is None else ours.attrib["cluster"]


def _claim_network(name: str, xml: str) -> None:
    """WorkFailed unless the network is ours, under the name that we gave it."""
    cluster = _cluster(xml)
    if cluster is None or networks.name(cluster) != name:
        raise _foreign(f"network {name}")


def _seen(name: str, xml: str, state: State) -> Seen | None:
    """What is told of a domain of ours; None when it is another's."""
    known = mark(xml)
    if known is None:
        return None
    size, crash = definition.size(xml), definition.crash(xml)
    return Seen(name, known, state, *size, vouched=domains.vouched(xml), crash=crash)


def _claim_domain(name: str, xml: str) -> Mark:
    """WorkFailed unless the domain is ours, under the name that we gave it."""
    known = mark(xml)
    if known is None or domains.name(known.cluster, known.node) != name:
        raise _foreign(f"domain {name}")
    return known


def _foreign(what: str) -> WorkFailed:
    return WorkFailed(
        f"{what} is not ours: it was not made by phx", "rename or remove it with virsh"
    )


@dataclass(slots=True)
class FakeHypervisor:
    """The port in memory, for tests of what uses it. Proves nothing about guests."""

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
        told = (_seen(name, xml, state) for name, (xml, state) in sorted(self.domains.items()))
        return tuple(
            replace(seen, autostart=seen.name in self.starting, vouched=seen.name in self.ready)
            for seen in told if seen is not None
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
        known = _claim_domain(name, xml)
        self.domains[name] = (definition.remarked(xml, replace(known, guarantee=guarantee)), state)

    def autostart(self, name: str, wanted: bool) -> bool:
        self._there(name)
        before, known = name in self.starting, self.starting
        (known.add if wanted else known.discard)(name)
        return before != wanted

    def crash(self, name: str, wanted: Crash) -> bool:
        xml, state = self._there(name)
        _claim_domain(name, xml)
        if definition.crash(xml) == wanted:
            return False
        root = ElementTree.fromstring(xml)
        found = root.find("on_crash")
        assert found is not None
        found.text = wanted
        self.domains[name] = (ElementTree.tostring(root, encoding="unicode"), state)
        return True

    def vouch(self, name: str) -> None:
        if self.domains.get(name, ("", "off"))[1] != "off":
            self.ready.add(name)

    def restart(self, name: str, xml: str) -> None:
        _claim_domain(name, self._there(name)[0])
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
            _claim_domain(name, text)
        return text

    def networks(self) -> dict[str, str]:
        found = ((name, _cluster(xml)) for name, xml in self.nets.items())
        return {name: cluster for name, cluster in found if cluster is not None}

    def start_network(self, name: str, xml: str) -> None:
        _claim_network(name, self.nets.setdefault(name, xml))

    def remove_network(self, name: str) -> None:
        if name in self.nets:
            _claim_network(name, self.nets[name])
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
            _claim_domain(name, self.domains[name][0])
            del self.domains[name]
            self.starting.discard(name)

    def close(self) -> None:
        pass
