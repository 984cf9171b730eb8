"""Samples and accounts as metrics for Prometheus. Names carry base units: seconds, bytes, cores.

Rates stay Prometheus' work: what grows is a counter here, and bandwidths are in bytes per second, so that a rate of
philoxenia_node_network_receive_bytes_total can be held against philoxenia_node_network_receive_limit_bytes_per_second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.metering.account import Account
from cluster.metering.usage import Sample, Usage

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

LABELS = ("cluster", "node", "role", "host")


@dataclass(frozen=True, slots=True)
class Kind:
    """One metric of a node. `value` gives None where the node has none."""

    name: str
    help: str
    value: Callable[[Usage], float | None]
    counter: bool = False


def _of(count: int | None, unit: float = 1.0) -> float | None:
    return None if count is None else count * unit


NODE: tuple[Kind, ...] = (
    Kind("cpu_seconds", "CPU time of the guest and its emulator since its start", lambda u: u.cpu / 1e9, True),
    Kind("cpu_wait_seconds", "Time that its CPUs had work and no core", lambda u: _of(u.waited, 1e-9), True),
    Kind("cpu_guarantee_cores", "Cores that are promised", lambda u: u.mark.guarantee.cpu_guarantee / 1000),
    Kind("cpu_limit_cores", "Cores that are never passed", lambda u: u.mark.guarantee.cpu_limit / 1000),
    Kind("memory_bytes", "Memory that the guest has now", lambda u: u.memory),
    Kind("memory_limit_bytes", "Memory that the guest can have", lambda u: u.memory_limit),
    Kind("network_receive_bytes", "Received by the guest", lambda u: u.received, True),
    Kind("network_transmit_bytes", "Sent by the guest", lambda u: u.sent, True),
    Kind("network_receive_guarantee_bytes_per_second", "Bandwidth to the guest that is promised",
         lambda u: u.mark.guarantee.in_guarantee / 8),
    Kind("network_receive_limit_bytes_per_second", "Bandwidth to the guest that is never passed",
         lambda u: u.mark.guarantee.in_limit / 8),
    Kind("network_transmit_guarantee_bytes_per_second", "Bandwidth from the guest that is promised",
         lambda u: u.mark.guarantee.out_guarantee / 8),
    Kind("network_transmit_limit_bytes_per_second", "Bandwidth from the guest that is never passed",
         lambda u: u.mark.guarantee.out_limit / 8),
    Kind("disk_read_bytes", "Read from its disks", lambda u: u.read, True),
    Kind("disk_written_bytes", "Written to its disks", lambda u: u.written, True),
)  # fmt: skip
ACCOUNT: tuple[tuple[str, str, Callable[[Account], float]], ...] = (
    ("held_cpu_core_seconds", "CPU guarantee times the time that it was held", lambda a: a.held.cpu),
    ("held_memory_byte_seconds", "Memory times the time that it was held", lambda a: a.held.memory),
    ("used_cpu_seconds", "CPU time that was seen to be used", lambda a: a.used.cpu),
    ("used_network_bytes", "Bytes that were seen to be received and sent", lambda a: a.used.received + a.used.sent),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one scrape shows."""

    samples: Sequence[Sample]
    silent: Collection[str]
    """Hosts that did not answer."""
    accounts: Sequence[Account] = ()


def families(seen: Seen) -> Iterator[Metric]:
    """Every metric of what was seen."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    up = GaugeMetricFamily("philoxenia_host_up", "Whether the host answers", labels=["host"])
    hosts = {**{s.host: 1 for s in seen.samples}, **dict.fromkeys(seen.silent, 0)}
    for host in sorted(hosts):
        up.add_metric([host], hosts[host])
    yield up
    for kind in NODE:
        family = CounterMetricFamily if kind.counter else GaugeMetricFamily
        metric = family(f"philoxenia_node_{kind.name}", kind.help, labels=LABELS)
        for host, u in ((s.host, u) for s in seen.samples for u in s.usages):
            value = kind.value(u)
            if value is not None:
                metric.add_metric([u.mark.cluster, u.mark.node, u.mark.role, host], value)
        yield metric
    for name, text, of in ACCOUNT:
        metric = CounterMetricFamily(f"philoxenia_{name}", text, labels=["cluster", "owner"])
        for account in seen.accounts:
            metric.add_metric([account.cluster, account.owner], of(account))
        yield metric


def registry(see: Callable[[], Seen]) -> CollectorRegistry:
    """A registry that looks anew at each scrape."""
    from prometheus_client import CollectorRegistry

    class Collector:
        def collect(self) -> Iterable[Metric]:
            return families(see())

        def describe(self) -> Iterable[Metric]:
            return families(Seen((), ()))  # else registering would look already

    found = CollectorRegistry()
    found.register(Collector())
    return found


def text(see: Callable[[], Seen]) -> str:
    """The text exposition, as a scrape gets it."""
    from prometheus_client import generate_latest

    return generate_latest(registry(see)).decode()
