"""What runs on hosts now, and so what each of them has left to promise."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cluster.hosts import policy, sandbox
from cluster.hosts.host import cpu_list
from cluster.pins import Pinned, carried
from cluster.place import Room, left

if TYPE_CHECKING:
    from cluster.domain import Mark
    from cluster.hosts.host import Host
    from cluster.hosts.port import Hypervisor, Seen
    from cluster.hosts.reach import Reach
    from cluster.site import Site


@contextlib.contextmanager
def connected(site: Site, host: Host) -> Iterator[tuple[Hypervisor, Reach]]:
    """The host's hypervisor and the way to it, while the context is open. EnvironmentLacks if it does not answer."""
    hypervisor = site.connect(host)
    try:
        reach = site.reach(host)
        try:
            yield hypervisor, reach
        finally:
            reach.close()
    finally:
        hypervisor.close()


def seen(site: Site, host: Host) -> tuple[Seen, ...]:
    """Our domains on the host; none while a sandbox does not run."""
    if host.kind == "sandbox" and not sandbox.alive(host):
        return ()
    hypervisor = site.connect(host)
    try:
        return hypervisor.observe()
    finally:
        hypervisor.close()


def room(site: Site, host: Host, but: str = "", *, disks: bool = False) -> Room:
    """What the host has left.

    but    a cluster that is not counted, since it is placed anew
    disks  whether the host is asked for its disk space too: no node that lives takes more of it
    """
    there = marks(site, host)
    whole = Room.of(host, disk(site, host) if disks else None)
    return left(whole, there, site.ledger.papers.intents(), but)


def marks(site: Site, host: Host) -> list[Mark]:
    """Of all our domains that share the host's machine.

    Sandbox hosts are parts of one machine: what one has promised, no other has left.
    """
    return [s.mark for h in _sharing(site, host) for s in seen(site, h)]


def cpus(site: Site, host: Host) -> frozenset[int]:
    """The CPUs that the host's guests can be on."""
    if host.cpus:
        return cpu_list(host.cpus)
    if host.kind == "sandbox":
        return frozenset(os.sched_getaffinity(0))
    with connected(site, host) as (hypervisor, _):
        return frozenset(range(hypervisor.facts().cores))


def stay(site: Site, host: Host, ours: Mapping[str, tuple[int, str]], cluster: str) -> None:
    """NoRoom if CPUs of the host would not carry the guests that stay on them.

    ours  node of the cluster -> (thousandths of a core that it is to be guaranteed, where it stays)
    """
    if not any(pin for _, pin in ours.values()):
        return
    others = (s for h in _sharing(site, host) for s in seen(site, h) if s.mark.cluster != cluster)
    told = [*ours.values(), *((s.mark.guarantee.cpu_guarantee, s.pin) for s in others)]
    # Where somebody pinned a guest's CPUs one by one, it can be on all of these.
    there = [Pinned(cores, cpu_list(pin.replace(" ", ","))) for cores, pin in told if pin]
    carried(host.name, there, host.cpu // len(cpus(site, host)))


def disk(site: Site, host: Host) -> int:
    """Bytes of disks that guests may be promised together: what is free and what guests' disks take already, as many
    times over as somebody decided.
    """
    found = [site.reach(h).space() for h in _sharing(site, host)]
    whole = found[0].free + sum(space.taken for space in found) - policy.SPARE
    return max(0, int(whole * site.ledger.overcommit(host)))


def _sharing(site: Site, host: Host) -> list[Host]:
    """The host, and all that are parts of the same machine."""
    if host.kind != "sandbox":
        return [host]
    known = site.ledger.hosts()
    return [host, *(h for h in known if h.kind == "sandbox" and h.name != host.name)]
