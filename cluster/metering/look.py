"""Looking at what runs: samples of every host that answers, and what they add to the account."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.errors import PhiloxeniaError
from cluster.hosts.port import Hypervisor
from cluster.metering.usage import Sample, Use, uses

if TYPE_CHECKING:
    from cluster.site import Site

REMEMBER = 60.0
"""Seconds between two entries in the account while somebody watches."""


def account(site: Site, host: str, hypervisor: Hypervisor) -> None:
    """Add what the host's nodes used to the account. Before they are removed, since their counters go with them.

    Never fails: what cannot be counted must not keep anybody from removing it.
    """
    try:
        sample = Sample(time.monotonic(), host, hypervisor.usage())
    except PhiloxeniaError:
        return
    remember(site, [sample])


def remember(site: Site, samples: Iterable[Sample]) -> None:
    """Add what the samples show to the account."""
    owners = {c.name: c.owner for c in site.ledger.clusters()}
    site.ledger.books.observe(owners, [u for s in samples for u in s.usages])


@dataclass(slots=True)
class Watch:
    """Looks at the hosts of some clusters again and again, over connections that stay open."""

    site: Site
    clusters: Collection[str] | None = None
    """None for all that there are at each look."""
    silent: dict[str, PhiloxeniaError] = field(default_factory=dict)
    """Hosts that did not answer the last look, and why."""
    _open: dict[str, Hypervisor] = field(default_factory=dict)
    _last: list[Sample] = field(default_factory=list)
    _remembered: float | None = None

    def look(self) -> list[Sample]:
        """One sample of each host that answers, of nodes of these clusters only."""
        rows = [
            c
            for c in self.site.ledger.clusters()
            if self.clusters is None or c.name in self.clusters
        ]
        names = {c.name for c in rows}
        self.silent, found = {}, []
        for host in sorted({c.host for c in rows}):
            try:
                if host not in self._open:
                    self._open[host] = self.site.connect(self.site.ledger.host(host))
                seen = self._open[host].usage()
            except PhiloxeniaError as cause:
                self.silent[host] = cause
                self._drop(host)
                continue
            usages = tuple(u for u in seen if u.mark.cluster in names)
            found.append(Sample(time.monotonic(), host, usages))
        now = time.monotonic()
        if self._remembered is None or now - self._remembered >= REMEMBER:
            self._remembered = now
            remember(self.site, found)
        return found

    def uses(self) -> list[Use]:
        """What was used since the last call; the first one has nothing to compare with and is empty."""
        before, self._last = {s.host: s for s in self._last}, self.look()
        return [use for s in self._last if s.host in before for use in uses(before[s.host], s)]

    def close(self) -> None:
        for host in list(self._open):
            self._drop(host)

    def _drop(self, host: str) -> None:
        hypervisor = self._open.pop(host, None)
        if hypervisor is not None:
            hypervisor.close()
