"""`phx verify`: what is in force compared with what is promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.cli import Json
from builder.terminal import Terminal
from cluster.hosts.cli import here

if TYPE_CHECKING:
    from builder.plan import Report
    from cluster.hosts.host import Host
    from cluster.hosts.port import Hypervisor
    from cluster.hosts.reach import Reach
    from cluster.site import Site
    from cluster.verify.drift import Drift


def verify(
    cluster: Annotated[str | None, typer.Argument(metavar="CLUSTER", help="Its name.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All clusters, and what is on their hosts of no cluster.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what no guest notices.")] = False,
    as_json: Json = False,
) -> None:
    """Compare what is in force with what is promised; ends with 1 if drift is left."""
    from builder.errors import InputError, Problem

    if (cluster is None) == (not every):
        raise InputError(Problem("", "say which cluster, or --all", "phx ps lists them"))
    terminal, site = Terminal(), here()
    names = [site.ledger.cluster(cluster).name] if cluster else None
    left = _verified(site, names, fix, terminal.report)
    if as_json:
        terminal.json([_row(d) for d in left])
    elif left:
        terminal.table(("CODE", "WHERE", "WHAT", "REMEDY"),
                       [(d.code, _where(d), d.what, d.remedy) for d in left])  # fmt: skip
    else:
        terminal.say("all is as promised")
    if left:
        raise typer.Exit(1)


def _verified(site: Site, names: list[str] | None, fix: bool, report: Report) -> list[Drift]:
    """Drift that is there, or that is left after mending. `names` is None for all, and for the hosts themselves."""
    from builder.errors import EnvironmentLacks
    from cluster.verify import look

    found: list[Drift] = []
    rows = [c for c in site.ledger.clusters() if names is None or c.name in names]
    hosts = {h.name: h for h in site.ledger.hosts()}
    wanted = {c.host for c in rows} | (set(hosts) if names is None else set())
    for host in sorted(wanted):
        mine = [c.name for c in rows if c.host == host]
        try:
            hypervisor = site.connect(hosts[host])
        except EnvironmentLacks as cause:
            found += [look.silent(host, c, cause) for c in mine]
            continue
        reach = site.reach(hosts[host])
        try:
            for cluster in mine:
                # Nobody launches, changes or removes it in between.
                with site.locked(f"cluster-{cluster}", report), site.locked("launch", report):
                    found += _cluster(site, cluster, reach, hypervisor, fix, report)
            if names is None:
                with site.locked("launch", report):
                    found += _host(site, hosts[host], reach, hypervisor, fix, report)
        finally:
            hypervisor.close()
            reach.close()
    return found


def _cluster(
    site: Site, name: str, reach: Reach, hypervisor: Hypervisor, fix: bool, report: Report
) -> tuple[Drift, ...]:
    from cluster.verify import look, mend

    looked = look.cluster(site, name, reach, hypervisor)
    if not fix or not looked.drifts:
        return looked.drifts
    mend.cluster(looked, reach, hypervisor, site.ledger.papers, report)
    return look.cluster(site, name, reach, hypervisor).drifts


def _host(
    site: Site, host: Host, reach: Reach, hypervisor: Hypervisor, fix: bool, report: Report
) -> tuple[Drift, ...]:
    from cluster.verify import look, mend

    drifts = look.leftovers(site, host, reach, hypervisor)
    if not fix or not drifts:
        return drifts
    mend.host(drifts, reach, report)
    return look.leftovers(site, host, reach, hypervisor)


def _where(drift: Drift) -> str:
    return "/".join(w for w in (drift.cluster, drift.node) if w) or f"host {drift.host}"


def _row(drift: Drift) -> dict[str, str]:
    return {"code": drift.code, "host": drift.host, "cluster": drift.cluster, "node": drift.node,
            "what": drift.what, "remedy": drift.remedy}  # fmt: skip
