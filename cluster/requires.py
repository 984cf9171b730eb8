"""What recipes and cluster files need of a host, compared with what the host tells of itself."""

from __future__ import annotations

from builder.language.requires import Requires, holds
from cluster.hosts.facts import HostFacts


def lacks(wanted: Requires, facts: HostFacts) -> list[tuple[str, str]]:
    """What the host is not, as pairs of the key and what the host has instead."""
    found = []
    if wanted.hypervisor not in (None, facts.hypervisor):
        found.append(("hypervisor", f"has {facts.named}, and {wanted.hypervisor} is required"))
    if wanted.version is not None and not holds(wanted.version, facts.version):
        found.append(("version", f"has {facts.named}, and {wanted.version} is required"))
    if wanted.kernel is not None and not holds(wanted.kernel, facts.kernel):
        found.append(("kernel", f"has kernel {facts.kernel}, and {wanted.kernel} is required"))
    return found
