"""`phx pause`, `phx suspend` and `phx resume`: a cluster stands still, in memory or on its host's disk, and goes on.

What a paused cluster holds is still promised to it; so is that of a suspended one, which can come back at any time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from builder.errors import InputError, Problem
from builder.terminal import Terminal
from cluster.hosts.cli import here

if TYPE_CHECKING:
    from builder.plan import Report
    from cluster.draft import Draft
    from cluster.site import Site

Cluster = Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")]
AT_ONCE = 2
"""Machines that are saved side by side: it is the disk's work."""


def stand(site: Site, cluster: str, report: Report, *, on_disk: bool) -> int:
    """Pause every node that runs, or save it to its host's disk; how many there were.

    Raises InputError (no such cluster), EnvironmentLacks (its host does not run), WorkFailed.
    """
    row = site.ledger.cluster(cluster)
    host = site.ledger.host(row.host)
    states = ("running", "paused") if on_disk else ("running",)
    with site.locked(f"cluster-{cluster}", report):
        hypervisor = site.connect(host)
        try:
            ours = [
                s for s in hypervisor.observe() if s.mark.cluster == cluster and s.state in states
            ]
            verb, said = (hypervisor.save, "saved") if on_disk else (hypervisor.pause, "paused")
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for seen, _ in zip(ours, pool.map(lambda s: verb(s.name), ours), strict=True):
                    report(f"{seen.mark.node} {said}")
                    site.ledger.note(cluster, seen.mark.node, said)
        finally:
            hypervisor.close()
    return len(ours)


def go_on(site: Site, cluster: str, report: Report) -> Draft:
    """Let a cluster that stood go on, wherever it was; its nodes' clocks are set, and all are ready again."""
    from cluster import launch
    from cluster.actions import Gentle, Resume

    def permitted(drawn: Draft) -> None:
        others = [a for a in drawn.changes if not isinstance(a, Resume | Gentle)]
        if others:
            what = f"{len(others)} nodes would be started anew, replaced or removed"
            raise InputError(Problem(cluster, what, "phx plan shows it; phx up does it"))

    return launch.again(site, cluster, permitted, report)


def pause(cluster: Cluster) -> None:
    """Stop every node where it is; memory and promises are kept. phx resume lets them go on."""
    terminal = Terminal()
    count = stand(here(), cluster, terminal.report, on_disk=False)
    terminal.say(f"{cluster}: {count} nodes stand; phx resume {cluster} lets them go on")


def suspend(cluster: Cluster) -> None:
    """Save every node's memory to its host's disk and free it. phx resume brings them back where they were."""
    terminal = Terminal()
    count = stand(here(), cluster, terminal.report, on_disk=True)
    terminal.say(f"{cluster}: {count} nodes are on disk; phx resume {cluster} brings them back")


def resume(cluster: Cluster) -> None:
    """Let a paused or suspended cluster go on; ends when every node is ready."""
    from cluster import show

    terminal, site = Terminal(), here()
    drawn = go_on(site, cluster, terminal.report)
    if drawn.changes:
        show.node_table(show.nodes(site, [cluster]), terminal)
    else:
        terminal.say(f"{cluster}: every node runs")
