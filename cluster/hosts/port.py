"""What we ask of the libvirt of a host: the port that the real one and the one in memory have in common.

A host's domains and networks are ours when their metadata says so; no other is seen or touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol
from xml.etree import ElementTree

from builder.errors import WorkFailed
from cluster import definition
from cluster import domain as domains
from cluster import network as networks
from cluster.domain import Mark, mark
from cluster.elements import Crash
from cluster.guarantee import Guarantee, Setting
from cluster.hosts.facts import HostFacts
from cluster.hosts.live import Tuned
from cluster.metering.usage import Usage
from cluster.network import NAMESPACE

State = Literal["running", "paused", "off", "crashed"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One of our domains as it is now. `vcpus` and `memory` (bytes) are what it booted with, and can have at most.

    autostart  whether it starts when its host does
    crash      what becomes of it when its kernel crashes
    pin        the host's CPUs that it stays on; "" for all
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
    pin: str = ""


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

    def pin(self, name: str, cpus: str) -> bool:
        """Let a domain stay on other CPUs of the host, now and later; whether anything had to change. With "" nothing
        does: who was pinned is let go when it is started anew.
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


def cluster_of(xml: str) -> str | None:
    """The cluster of a network of ours; None when it is another's."""
    ours = ElementTree.fromstring(xml).find(f"metadata/{{{NAMESPACE}}}network")
    return None if ours is None else ours.attrib["cluster"]


def claim_network(name: str, xml: str) -> None:
    """WorkFailed unless the network is ours, under the name that we gave it."""
    cluster = cluster_of(xml)
    if cluster is None or networks.name(cluster) != name:
        raise _foreign(f"network {name}")


def seen(name: str, xml: str, state: State) -> Seen | None:
    """What is told of a domain of ours; None when it is another's."""
    known = mark(xml)
    if known is None:
        return None
    size, crash = definition.size(xml), definition.crash(xml)
    return Seen(
        name,
        known,
        state,
        *size,
        vouched=domains.vouched(xml),
        crash=crash,
        pin=definition.pin(xml),
    )


def claim_domain(name: str, xml: str) -> Mark:
    """WorkFailed unless the domain is ours, under the name that we gave it."""
    known = mark(xml)
    if known is None or domains.name(known.cluster, known.node) != name:
        raise _foreign(f"domain {name}")
    return known


def _foreign(what: str) -> WorkFailed:
    return WorkFailed(
        f"{what} is not ours: it was not made by phx", "rename or remove it with virsh"
    )
