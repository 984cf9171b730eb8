"""The only door to libvirt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
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
from cluster.hosts.host import cpu_list
from cluster.hosts.live import Tuned
from cluster.hosts.port import Seen, State, claim_domain, claim_network, cluster_of, seen
from cluster.metering.usage import Usage, added
from cluster.network import NAMESPACE

CUT = "phx host ls shows whether the host answers; run the same command again: it goes on"


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
                if (ours := seen(domain.name(), text, states.get(state, "off"))) is not None:
                    found.append(replace(ours, autostart=ours.name in starting))
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
            known = claim_domain(name, domain.XMLDesc())
            lib, lasting = self._libvirt, live.flags(self._libvirt, domain)
            element = definition.element(replace(known, guarantee=guarantee))
            domain.setMetadata(lib.VIR_DOMAIN_METADATA_ELEMENT, element, "phx", NAMESPACE, lasting)

    def autostart(self, name: str, wanted: bool) -> bool:
        with self._door(f"domain {name} cannot be told whether it starts with its host"):
            domain = self._connection.lookupByName(name)
            known = claim_domain(name, domain.XMLDesc())
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
            claim_domain(name, text)
            if definition.crash(text) == wanted:
                return False
            live.crash(self._libvirt, domain, wanted)
            return True

    def pin(self, name: str, cpus: str) -> bool:
        with self._door(f"domain {name} cannot be pinned to CPUs {cpus}"):
            domain = self._connection.lookupByName(name)
            text = domain.XMLDesc()
            claim_domain(name, text)
            if not cpus or definition.pin(text) == cpus:
                return False
            live.pin(self._libvirt, domain, cpu_list(cpus), self._connection.getCPUMap()[0])
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
            claim_domain(name, domain.XMLDesc())
            live.restart(self._libvirt, domain, xml, self._connection.defineXML)

    def definition(self, name: str) -> str:
        with self._door(f"domain {name} does not show its definition"):
            domain = self._found(self._connection.lookupByName, name)
            text: str = "" if domain is None else domain.XMLDesc()
        if text:
            claim_domain(name, text)
        return text

    def networks(self) -> dict[str, str]:
        found = {}
        with self._door("the host does not list its networks"):
            for network in self._connection.listAllNetworks():
                cluster = cluster_of(network.XMLDesc())
                if cluster is not None and network.isActive():
                    found[network.name()] = cluster
        return found

    def start_network(self, name: str, xml: str) -> None:
        with self._door(f"network {name} cannot be started"):
            network = self._found(self._connection.networkLookupByName, name)
            if network is None:
                network = self._connection.networkDefineXML(xml)
            claim_network(name, network.XMLDesc())
            if not network.isActive():
                network.create()

    def remove_network(self, name: str) -> None:
        with self._door(f"network {name} cannot be removed"):
            network = self._found(self._connection.networkLookupByName, name)
            if network is not None:
                claim_network(name, network.XMLDesc())
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
            claim_domain(name, domain.XMLDesc())
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
