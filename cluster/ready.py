"""From started to ready, for a whole site: nodes that go say goodbye, the others are told and waited for."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import WorkFailed
from builder.plan import Report
from cluster import concern, deploy, leaving, network, offline, wait
from cluster.actions import Gentle, Remove, Replace, Resume
from cluster.draft import Draft
from cluster.hosts import store
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.ledger import NodeRow
from cluster.site import Site
from contextualize.coordinator import Coordinator
from contextualize.identity import Secret, derive

if TYPE_CHECKING:
    from contextualize.doorway import Doorway
    from contextualize.message import Report as Said


REMADE = 30.0
"""Seconds that a Xen guest may be off: libvirt makes it anew when it reboots, in 6 to 15 s on an emulated host."""


def say_goodbye(site: Site, drawn: Draft, reach: Reach, report: Report) -> None:
    """Nodes that go run their leave hooks."""
    going = [a.node if isinstance(a, Remove) else a.node.name
             for a in drawn.actions if isinstance(a, Remove | Replace)]  # fmt: skip
    going = [node for node in going if not drawn.silent(node.rpartition("-")[0])]
    cluster = drawn.spec.cluster
    by_https = drawn.plan.context.https
    tokens = {node: derive(drawn.row.secret, cluster, node).token for node in going}
    paths = {
        node: store.channel(cluster, node)
        for node in going if node.rpartition("-")[0] not in by_https
    }  # fmt: skip
    if going:
        with reach.sockets(paths) as sockets, _doorway(drawn, reach, tokens) as doorway:
            channels = {node: (sockets.get(node), token) for node, token in tokens.items()}
            leaving.leave(channels, drawn.spec.hook_limit + 30, report, doorway)
        for node in going:
            site.ledger.note(cluster, node, "told to leave")


def until_ready(
    site: Site, drawn: Draft, reach: Reach, hypervisor: Hypervisor, report: Report
) -> None:
    """Tell nodes what is new for them and wait until enough are ready; nodes that nothing concerns are left alone."""
    cluster, spec = drawn.spec.cluster, drawn.spec
    rows = {r.name: r for r in site.ledger.nodes(cluster)}
    touched = {a.node.name for a in drawn.changes if not isinstance(a, Remove | Gentle)}
    bases = {n.name: drawn.plan.documents.base(n.name) for n in drawn.plan.nodes}
    due = concern.due(drawn.plan, rows, touched)
    silent = {n.name: n for n in drawn.plan.nodes if drawn.silent(n.role)}
    stale = {n for n in due & silent.keys() - touched if rows[n].stage == "healthy"}
    if stale:
        what = "nobody there can be told what is new; phx replace gives it to them"
        report(f"{', '.join(sorted(stale))}: {what}")
        due -= stale
        bases |= {n: rows[n].context for n in stale}
    gone = [a.node for a in drawn.actions if isinstance(a, Remove)]
    heard = concern.heard(drawn.plan, due, rows, touched, gone)
    listened = due | heard
    if not listened:
        return
    watched, told = [], []
    for n in drawn.plan.nodes:
        if n.name in listened:
            row = rows[n.name]
            if n.name in touched:
                row = replace(row, stage="defined", boot="", message="", context="")
            elif n.name in due:
                row = replace(row, stage="booted" if row.boot else "defined", message="")
            watched.append(
                wait.Watched(
                    row, n.domain, None, n.identity.token, bases[n.name], n.name in due,
                    n.name in silent,
                )
            )  # fmt: skip
            told.append(row)
    site.ledger.tell(*told)
    least = {name: role.least for name, role in spec.roles.items()}
    # A failure that a machine of before reports is of before, whether the ledger heard of it or not.
    coordinator = Coordinator(
        drawn.plan.documents, drawn.plan.exchange(least), {w.row.name for w in watched},
        due - touched, heard | {name for name in due - touched if rows[name].stage == "healthy"},
    )  # fmt: skip

    def tell(changed: Sequence[NodeRow]) -> None:
        notes = []
        for row in changed:
            first = row.message.partition("\n")[0]
            notes.append((cluster, row.name, row.stage + (f": {first}" if first else "")))
            if row.stage == "healthy":
                hypervisor.vouch(planned[row.name].domain)
                report(f"{row.name} ready ({row.uptime:.1f} s after its kernel started)")
            elif row.stage not in ("failed", "defined"):
                report(f"{row.name} {row.stage}")
        site.ledger.tell(*changed, notes=notes)

    def ran(said: Said) -> None:
        for path, status, seconds in said.hooks:
            how = "took too long" if status is None else f"exit {status}"
            site.ledger.note(cluster, said.node, f"hook {path}: {how}, {seconds:g} s")

    planned = {n.name: n for n in drawn.plan.nodes}

    def mend(node: str) -> None:
        with site.locked("launch", report):
            now = next((c for c in site.ledger.clusters() if c.name == cluster), None)
            if now is None or now.secret != drawn.row.secret:
                gone = f"{node} is gone, and so is the cluster {cluster}: another phx took it down"
                raise WorkFailed(gone)
            report(f"{node} gets another machine")
            site.ledger.note(cluster, node, "gets another machine")
            deploy.relaunch(
                drawn.plan, planned[node], reach, hypervisor, inscriber(site, drawn, report)
            )
            outside.forget(node)
            deploy.shape(drawn.plan, reach)

    stages = {k: float(v) for k, v in spec.deadlines.model_dump().items() if v is not None}
    spare = {name: role.count - role.least for name, role in spec.roles.items()}
    counts = {name: role.count for name, role in spec.roles.items()}
    away = REMADE if drawn.host.driver == "xen" else 0.0
    limits = wait.Limits(spec.deadline, stages, spare, counts, away=away)
    keys = {
        w.row.name: (w.row.address, silent[w.row.name].identity.host_key.public)
        for w in watched if w.silent
    }  # fmt: skip
    outside = offline.Outside(
        reach, keys, lambda n: str(drawn.plan.documents.document(n)["digest"])
    )
    paths = {
        n.name: store.channel(cluster, n.name)
        for n in drawn.plan.nodes if n.name in listened and n.machine.channel
    }  # fmt: skip
    with reach.sockets(paths) as sockets, _doorway(drawn, reach) as doorway, outside:
        found = wait.Wait(
            [replace(w, channel=sockets.get(w.row.name)) for w in watched], coordinator, hypervisor, limits, tell,
            lambda node: store.console_tail(reach, cluster, node), mend, doorway, ran, outside.heard,
            {a.node.name for a in drawn.actions if isinstance(a, Resume)},
        ).until_ready()  # fmt: skip
    lost = [name for name, row in found.items() if row.stage != "healthy"]
    if lost:
        site.ledger.note(cluster, "", f"degraded: {', '.join(lost)} not ready")
        report(f"{cluster} is degraded: {', '.join(lost)} not ready; phx up tries again")


@contextlib.contextmanager
def _doorway(
    drawn: Draft, reach: Reach, leaving: Mapping[str, Secret] | None = None
) -> Iterator[Doorway | None]:
    """Where nodes that are reached by HTTPS come in; None when there is no such node.

    leaving  tokens of nodes that go: they are no longer in the plan
    """
    if not drawn.plan.context.https:
        yield None
        return
    tokens = {n.name: n.identity.token for n in drawn.plan.nodes} | dict(leaving or {})
    with entrance(
        reach, drawn.spec.cluster, drawn.plan.network, drawn.row.secret, tokens
    ) as doorway:
        yield doorway


def entrance(
    reach: Reach,
    cluster: str,
    net: ipaddress.IPv4Network,
    secret: Secret,
    tokens: Mapping[str, Secret],
) -> Doorway:
    """The doorway of a cluster's network, for the nodes with these tokens. WorkFailed if its port is taken."""
    from contextualize.certificate import PORT, certificate
    from contextualize.doorway import Doorway

    listening = reach.listen(str(network.gateway(net)), PORT)
    return Doorway(listening, certificate(secret, cluster), tokens)


def inscriber(site: Site, drawn: Draft, report: Report) -> deploy.Inscribe:
    images = {name: drawn.image(name) for name in drawn.spec.roles}
    return offline.inscriber(drawn.plan, images, site.home, report)
