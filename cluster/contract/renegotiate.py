"""`phx set`: what running nodes are promised is changed by agreement, or stays as it was, with the reason."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.errors import InputError, NoRoom, Problem, close
from builder.plan import Report
from cluster import deploy, draft, launch, occupancy
from cluster.actions import needs_restart
from cluster.calibrate.curve import Calibration, refusal
from cluster.contract import asked, terms
from cluster.contract.enforce import Change, Enforcer
from cluster.contract.terms import Term
from cluster.guarantee import KEY_OF, refusals
from cluster.hosts.host import Host
from cluster.hosts.port import Seen
from cluster.ledger import ClusterRow
from cluster.place import admit, lend
from cluster.plan import guarantee
from cluster.site import Site, node_of


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom a request is for: one node, or with node "" a whole role."""

    cluster: str
    role: str
    node: str

    def __str__(self) -> str:
        return f"{self.cluster}/{self.node or self.role}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `changes` is empty when all of it was so already; `restarted` have booted again for it."""

    whom: Whom
    changes: tuple[Change, ...]
    restarted: tuple[str, ...] = ()


def addressed(site: Site, name: str) -> Whom:
    """NODE, CLUSTER/NODE or CLUSTER/ROLE. InputError, with the names that there are, for anything else."""
    cluster, slash, last = name.rpartition("/")
    if slash:
        row = site.ledger.cluster(cluster)
        nodes = {n.name: n.role for n in site.ledger.nodes(row.name)}
        if last in nodes:
            return Whom(row.name, nodes[last], last)
        roles = set(nodes.values())
        if last in roles:
            return Whom(row.name, last, "")
        raise InputError(
            Problem("", f"no node and no role '{last}' in {cluster}", close(last, {*nodes, *roles}))
        )
    row, node = node_of(site, name)
    return Whom(row.name, node.role, node.name)


def renegotiate(
    site: Site, whom: Whom, wanted: Mapping[str, int], restart: bool, report: Report
) -> Outcome:
    """Give nodes what is asked for, or raise why not; then all is as it was.

    wanted   field of Guarantee -> number, as `asked.asked` reads them
    restart  whether nodes may boot again where they have to
    Raises InputError, NoRoom with what is left, EnvironmentLacks, WorkFailed, TimedOut.
    """
    with site.locked(f"cluster-{whom.cluster}", report):
        with site.locked("launch", report):
            row = site.ledger.cluster(whom.cluster)
            host = site.ledger.host(row.host)
            with occupancy.connected(site, host) as (hypervisor, reach):
                enforcer = Enforcer(
                    whom.cluster, host, hypervisor, reach, site.ledger.papers, report
                )
                enforcer.settle()
                seen = {s.mark.node: s for s in hypervisor.observe() if s.mark.cluster == row.name}
                changes, granted = _agreement(site, whom, wanted, seen)
                real = [c for c in changes if c.before != c.after and c.node in seen]
                booting = permitted(site, host, whom, changes, wanted, seen, restart)
                admit(occupancy.room(site, host), [(c.node, c.before, c.after) for c in real])
                if not booting:
                    enforcer.carry_out(real, granted)
                    if row.name in site.uses_uplink(host.name):
                        deploy.lead_out(
                            draft.draft(site, *launch.kept(site, row.name), None).plan, reach
                        )
                    _remember(site, row, real)
                    return Outcome(whom, tuple(real))
        launch.adjust(site, whom.cluster, granted, report)
    _remember(site, row, real)
    return Outcome(whom, tuple(real), booting)


def _agreement(
    site: Site, whom: Whom, wanted: Mapping[str, int], seen: Mapping[str, Seen]
) -> tuple[list[Change], tuple[Term, ...]]:
    """What each node would have, and all terms of the cluster then. InputError with all that does not fit together."""
    spec, _ = launch.kept(site, whom.cluster)
    role = guarantee(spec.roles[whom.role])
    known = site.ledger.papers.terms(whom.cluster)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    granted = terms.agreed(known, whom.role, whom.node, role, wanted, now)
    problems: list[Problem] = []
    changes = []
    for node in (n for n, r in spec.names if r == whom.role and whom.node in ("", n)):
        held = seen[node].mark.guarantee if node in seen else role
        _, wrong = asked.changed(node, terms.promised(node, whom.role, role, known), wanted)
        problems += wrong
        changes.append(Change(node, held, terms.promised(node, whom.role, role, granted)))
    if problems:
        raise InputError(problems)
    return changes, granted


def permitted(
    site: Site,
    host: Host,
    whom: Whom,
    changes: list[Change],
    wanted: Mapping[str, int],
    seen: Mapping[str, Seen],
    restart: bool,
) -> tuple[str, ...]:
    """Nodes that have to boot again for the changes. All that speaks against them, but room, is raised."""
    _check(host, changes, wanted)
    booting = _restarts(whom, changes, seen, restart)
    real = [c for c in changes if c.before != c.after and c.node in seen]
    if (lent := site.ledger.uplink(host.name)) and whom.cluster in site.uses_uplink(host.name):
        held = {node: s.mark.guarantee for node, s in seen.items()}
        lend(host.name, lent, (held | {c.node: c.after for c in real}).values())
    _carried(site.ledger.calibration(host.name), real)
    cores = {n: s.mark.guarantee.cpu_guarantee for n, s in seen.items()}
    cores |= {c.node: c.after.cpu_guarantee for c in real}
    occupancy.stay(site, host, {n: (cores[n], s.pin) for n, s in seen.items()}, whom.cluster)
    return booting


def _check(host: Host, changes: list[Change], wanted: Mapping[str, int]) -> None:
    """InputError for what the host's driver cannot hold, NoRoom for a limit that is above its machine."""
    problems = {
        Problem(refusal.key, f"host '{host.name}' cannot hold it: {refusal.why}", refusal.remedy)
        for change in changes
        for refusal in refusals(change.after, host.driver)
        if refusal.key in {KEY_OF[field] for field in wanted}
    }
    if problems:
        raise InputError(sorted(problems, key=str))
    for change in changes:
        if draft.beyond(host, change.after):
            what = (
                f"cpu.limit {change.after.cpu_limit / 1000:g} is more than host '{host.name}' has"
            )
            raise NoRoom(what, f"it has {host.cpu * 10 // 9 / 1000:g} cores")


def _carried(known: Calibration | None, changes: Iterable[Change]) -> None:
    """NoRoom for the first node whose CPU would not carry its bandwidth on this host, as far as that was measured."""
    for change in changes:
        if (why := refusal(change.after, known)) is not None:
            raise NoRoom(f"{change.node}: {why[0]}", why[1])


def _restarts(
    whom: Whom, changes: list[Change], seen: Mapping[str, Seen], restart: bool
) -> tuple[str, ...]:
    """Nodes that have to boot again. InputError naming them, and why, when they may not."""
    needed = {
        c.node: why
        for c in changes
        if c.node in seen and seen[c.node].state not in ("off", "crashed")
        if (why := needs_restart(c.after, seen[c.node]))
    }
    if needed and not restart:
        raise InputError(
            Problem(f"{whom.cluster}/{node}", f"needs restart: {why}",
                    "phx set --restart does it: the node boots again, its disk stays")
            for node, why in needed.items()
        )  # fmt: skip
    return tuple(needed)


def _remember(site: Site, row: ClusterRow, changes: list[Change]) -> None:
    """Whoever looks at the account or at the events later finds it."""
    site.ledger.books.hold(row.name, row.owner, {c.node: c.after for c in changes})
    for change in changes:
        site.ledger.note(row.name, change.node, "; ".join(asked.told(change.before, change.after)))
