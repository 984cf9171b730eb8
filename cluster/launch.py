"""`phx up`, `down` and what changes a running cluster, without their printing: planned, then carried out."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from builder import accelerator
from builder.document import Document, parse
from builder.errors import InputError, Problem
from builder.plan import Report
from cluster import deploy, occupancy, ready
from cluster import spec as specs
from cluster.actions import Adjust, Flag, Gentle, Meet, Remove, Replace, Resume, boots
from cluster.contract.asked import told
from cluster.contract.enforce import Change, Enforcer
from cluster.contract.terms import Term
from cluster.draft import Draft, draft
from cluster.hosts import sandbox
from cluster.ledger import NodeRow
from cluster.metering import look
from cluster.site import Site, forget
from cluster.spec import ClusterSpec, natural
from contextualize import context as contexts
from contextualize.identity import operator_key

Wanted = tuple[ClusterSpec, Document]
AFTER = {"destroy": "will be off", "restart": "starts again"}


def up(
    site: Site, path: Path, host_name: str | None, replace_: bool, report: Report, restart: bool = False
) -> Draft:  # fmt: skip
    """Launch the cluster, or bring it to what its file says; returns when enough of its nodes are ready.

    replace_  whether nodes that would have to be another machine may be replaced, and others removed
    restart   whether nodes may boot again where their guarantees need it
    Raises InputError, NoRoom, EnvironmentLacks, WorkFailed, TimedOut. Run again after any of them: it goes on.
    """
    spec, document = specs.load(path)

    def permitted(drawn: Draft) -> None:
        lost = [a for a in drawn.actions if isinstance(a, Replace | Remove)]
        if lost and not replace_:
            names = ", ".join(
                a.node if isinstance(a, Remove) else f"{a.node.name} ({a.why})" for a in lost
            )
            raise InputError(
                Problem(str(path), f"{len(lost)} running nodes would lose their disks: {names}",
                        "phx plan shows it; phx up --replace does it")
            )  # fmt: skip
        if not (restart or replace_):
            _nothing_restarted(drawn, str(path), "phx up --restart does it; their disks stay")

    return _bring(site, spec.cluster, lambda: (spec, document), host_name, (), permitted, report)


def kept(site: Site, cluster: str, now: Document | None = None) -> tuple[ClusterSpec, Document]:
    """The cluster's file as it was last brought up, or another in its place, with the images that its nodes have: that
    there is a newer image of the same name concerns `phx up` alone. InputError if there is no such cluster.
    """
    row = site.ledger.cluster(cluster)
    before, document = specs.checked(parse(row.spec, f"the file of cluster {cluster}"))
    spec, document = specs.checked(now) if now else (before, document)
    images = json.loads(row.images)
    roles = dict(spec.roles)
    for name in roles.keys() & before.roles.keys() & images.keys():
        if roles[name].image == before.roles[name].image:
            roles[name] = roles[name].model_copy(update={"image": images[name]})
    return spec.model_copy(update={"roles": roles}), document


def scale(site: Site, cluster: str, counts: Mapping[str, int], report: Report) -> Draft:
    """Bring roles of a running cluster to other counts. The last nodes of a role leave, no other is replaced."""

    def wanted() -> Wanted:
        return kept(site, cluster, specs.scaled(kept(site, cluster)[1], counts))

    wanted()  # what is wrong in it is told before anybody waits
    return _bring(site, cluster, wanted, None, (), _nothing_replaced, report)


def renew(site: Site, cluster: str, nodes: Collection[str], report: Report) -> Draft:
    """Give nodes another machine each, with the same identity and a fresh disk."""
    return _bring(site, cluster, lambda: kept(site, cluster), None, nodes, lambda _: None, report)


def again(site: Site, cluster: str, permitted: Callable[[Draft], None], report: Report) -> Draft:
    """Bring a cluster to what it was last brought to, as far as that is permitted."""
    return _bring(site, cluster, lambda: kept(site, cluster), None, (), permitted, report)


def recontext(site: Site, cluster: str, file: Path | None, report: Report) -> Draft:
    """Bring changed data, templates and keys to the running nodes; nothing else may have changed in the file."""
    now = specs.load(file)[1] if file else None
    if now and now.data["cluster"] != cluster:
        raise InputError(Problem(str(file), f"is of cluster {now.data['cluster']}, not {cluster}"))
    kept(site, cluster, now)  # what is wrong in it is told before anybody waits

    def permitted(drawn: Draft) -> None:
        if others := [a for a in drawn.actions if not isinstance(a, Gentle)]:
            what = f"{len(others)} nodes would be started, replaced or removed"
            raise InputError(
                Problem(str(file or cluster), what, "phx plan shows it; phx up does it")
            )

    return _bring(site, cluster, lambda: kept(site, cluster, now), None, (), permitted, report)


def adjust(site: Site, cluster: str, terms: Collection[Term], report: Report) -> Draft:
    """Let nodes boot again as far as these terms need it, and wait until they are ready. The cluster's lock is held."""
    return _change(site, *kept(site, cluster), None, (), lambda _: None, report, terms)


def _nothing_restarted(drawn: Draft, where: str, hint: str) -> None:
    booting = [
        f"{a.node.name} ({a.restart})"
        for a in drawn.actions
        if isinstance(a, Adjust) and a.restart and a.state not in ("off", "crashed")
    ]
    if booting:
        what = f"{len(booting)} running nodes would boot again: {', '.join(booting)}"
        raise InputError(Problem(where, what, hint))


def _nothing_replaced(drawn: Draft) -> None:
    lost = [f"{a.node.name} ({a.why})" for a in drawn.actions if isinstance(a, Replace)]
    if lost:
        what = f"{', '.join(lost)} would have to be replaced"
        hint = "phx up --replace with the cluster's file does it"
        raise InputError(Problem(drawn.spec.cluster, what, hint))
    _nothing_restarted(
        drawn, drawn.spec.cluster, "phx up --restart with the cluster's file does it"
    )


def _bring(
    site: Site,
    cluster: str,
    wanted: Callable[[], Wanted],
    host_name: str | None,
    anew: Collection[str],
    permitted: Callable[[Draft], None],
    report: Report,
) -> Draft:
    """Bring the cluster to the spec: nodes that go say goodbye, the others come, all are told, then the leavers go.

    One cluster is changed by one phx at a time; `phx down` alone does not wait for it. So what is wanted is asked when
    it is our turn: it may build on what the one before us changed.
    """
    from cluster.contract.tick import tick  # it changes what runs by `adjust`

    # What was to be another before now is so before anything else is: what was said last holds.
    tick(site, datetime.datetime.now(datetime.UTC), report, cluster)
    with site.locked(f"cluster-{cluster}", report):
        spec, document = wanted()
        return _change(site, spec, document, host_name, anew, permitted, report)


def _change(
    site: Site,
    spec: ClusterSpec,
    document: Document,
    host_name: str | None,
    anew: Collection[str],
    permitted: Callable[[Draft], None],
    report: Report,
    terms: Collection[Term] | None = None,
) -> Draft:
    from cluster.verify import mend  # it looks by our own planning

    # Admission and launch are one act: nobody else promises or starts anything in between.
    with site.locked("launch", report):
        _settle(site, spec.cluster, report)
        drawn = draft(site, spec, document, host_name, anew, terms)
        if drawn.host.kind == "sandbox" and not sandbox.alive(drawn.host):
            report(f"starting sandbox host '{drawn.host.name}'")
            mend.started(site, site.start_host(drawn.host.name), spec.cluster, report)
            _settle(site, spec.cluster, report)
            drawn = draft(site, spec, document, drawn.host.name, anew, terms)
        if not drawn.host.accelerator and drawn.host.driver == "qemu":
            _accelerate(site, drawn)
            drawn = draft(site, spec, document, drawn.host.name, anew, terms)
        host = drawn.host
        permitted(drawn)
        rows = [NodeRow(spec.cluster, n.name, n.role, n.address) for n in drawn.plan.nodes]
        before = {r.name: r for r in site.ledger.nodes(spec.cluster)}
        row = site.ledger.open_cluster(drawn.row, rows)
        drawn = replace(drawn, row=row)
        if row.generation != drawn.before:
            counts = ", ".join(f"{name} {role.count}" for name, role in spec.roles.items())
            site.ledger.note(spec.cluster, "", f"generation {row.generation}: {counts}")
        site.ledger.books.hold(
            row.name, row.owner, {n.name: n.machine.guarantee for n in drawn.plan.nodes}
        )
        write_access(site, drawn)
        for image in drawn.images.values():
            site.catalog.hold(image, f"cluster {spec.cluster}")
        hypervisor, reach = site.connect(host), site.reach(host)
        try:
            leaving = [a.node for a in drawn.actions if isinstance(a, Remove)]
            guarded = deploy.guard(drawn.plan, reach, leaving)
            deploy.close(drawn.plan, reach, site.ledger.uplink(host.name))
            ready.say_goodbye(site, drawn, reach, report)
            if any(isinstance(a, Replace) for a in drawn.actions):
                look.account(site, host.name, hypervisor)  # their counters go with them
            staying = [a for a in drawn.actions if not isinstance(a, Remove)]
            # Whoever gets another machine, or boots again, is not ready, even if we die before we see it start; nor is
            # whoever was started without us.
            unmet = {a.node.name for a in staying if isinstance(a, Meet)}
            unmet = {name for name in unmet & before.keys() if before[name].stage == "healthy"}
            site.ledger.tell(
                *(replace(before[a.node.name], stage="defined", boot="", message="", context="")
                  for a in staying
                  if a.node.name in unmet or (boots(a) and a.node.name in before))
            )  # fmt: skip
            enforcer = Enforcer(spec.cluster, host, hypervisor, reach, site.ledger.papers, report)
            _adjust(enforcer, drawn, report)
            if any(boots(a) for a in staying):
                needed = (drawn.image(a.node.role) for a in staying if boots(a))
                for image in {image.id: image for image in needed}.values():
                    reach.bring(image, site.catalog.folder(image), report)
                deploy.apply(
                    drawn.plan,
                    staying,
                    reach,
                    hypervisor,
                    report,
                    ready.inscriber(site, drawn, report),
                )
            else:
                if guarded:
                    report(f"{', '.join(guarded)} kept to their own addresses again")
                if changed := deploy.shape(drawn.plan, reach):
                    report(f"bandwidth of {', '.join(changed)} set again")
            _hold(enforcer, drawn, report)
        except BaseException:
            hypervisor.close()
            reach.close()
            raise
    try:
        ready.until_ready(site, drawn, reach, hypervisor, report)
        with site.locked("launch", report):
            going = [a for a in drawn.actions if isinstance(a, Remove)]
            if going:
                look.account(site, host.name, hypervisor)
            deploy.remove(drawn.plan.cluster, going, reach, hypervisor, report)
            if going:
                deploy.guard(drawn.plan, reach)
            gone = before.keys() - {n.name for n in drawn.plan.nodes}
            site.ledger.drop_nodes(spec.cluster, gone)
            site.ledger.books.release(spec.cluster, gone)
            for name in sorted(gone, key=natural):
                site.ledger.note(spec.cluster, name, "removed")
    finally:
        hypervisor.close()
        reach.close()
    return drawn


def _settle(site: Site, cluster: str, report: Report) -> None:
    """Take back or finish what a phx began and did not end, as soon as the host can be asked."""
    open_ = {i.cluster for i in site.ledger.papers.intents()}
    row = next((c for c in site.ledger.clusters() if c.name == cluster), None)
    if row is None or cluster not in open_:
        return
    host = site.ledger.host(row.host)
    if host.kind == "sandbox" and not sandbox.alive(host):
        return
    with occupancy.connected(site, host) as (hypervisor, reach):
        Enforcer(cluster, host, hypervisor, reach, site.ledger.papers, report).settle()


def _adjust(enforcer: Enforcer, drawn: Draft, report: Report) -> None:
    """Change the guarantees of nodes that need not boot for it, all of them or none; and keep what was agreed."""
    live = [a for a in drawn.actions if isinstance(a, Adjust) and not a.restart]
    for action in live:
        if action.state == "paused":
            enforcer.hypervisor.resume(action.node.domain)
    changes = [Change(a.node.name, a.was, a.node.machine.guarantee) for a in live]
    enforcer.carry_out(changes, drawn.terms)
    for change in changes:
        report(f"{change.node}: {'; '.join(told(change.before, change.after))}")


def _hold(enforcer: Enforcer, drawn: Draft, report: Report) -> None:
    """See that what every node was told is in force: a cap is no part of a Xen guest's definition, and hands meddle."""
    kept_ = {a.node.name for a in drawn.actions if isinstance(a, Gentle)}
    for action in drawn.actions:
        if isinstance(action, Flag | Meet | Adjust | Resume):
            node = action.node
            if enforcer.hypervisor.autostart(node.domain, node.autostart):
                does = "starts" if node.autostart else "no longer starts"
                report(f"{node.name} {does} when its host does")
            if enforcer.hypervisor.crash(node.domain, node.machine.crash) and node.name in kept_:
                report(f"{node.name} {AFTER[node.machine.crash]} when its kernel crashes")
            if enforcer.hypervisor.pin(node.domain, node.machine.pin) and node.name in kept_:
                report(f"{node.name} stays on CPUs {node.machine.pin} of its host")
    for node in drawn.plan.nodes:
        changed = enforcer.tell(node.name, node.machine.guarantee, balloons=True)
        if changed and node.name in kept_:
            report(f"{' and '.join(changed)} of {node.name} set again")


def _accelerate(site: Site, drawn: Draft) -> None:
    """Find out, by booting a probe from the cluster's first image, what guests on the host run under."""
    folder = site.catalog.folder(next(iter(drawn.images.values())))
    chosen = accelerator.choose(
        folder / "vmlinuz", folder / "initrd", site.home / "cache" / "accelerator.json"
    )
    site.ledger.put_host(replace(drawn.host, accelerator=chosen))


def write_access(site: Site, drawn: Draft) -> None:
    """ssh_config, known_hosts and the operator's key, for `phx ssh` and for people's own ssh."""
    folder = site.files(drawn.spec.cluster)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    private = operator_key(drawn.row.secret, drawn.spec.cluster).private.reveal()
    aside = folder / "operator_key.new"
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(private)
    aside.replace(folder / "operator_key")
    known = "".join(
        f"{n.name},{n.name}.{drawn.spec.cluster},{n.address} {n.identity.host_key.public}\n"
        for n in drawn.plan.nodes
    )
    (folder / "known_hosts").write_text(known)
    nodes = [(n.name, n.address) for n in drawn.plan.nodes]
    (folder / "ssh_config").write_text(
        contexts.ssh_config(drawn.spec.cluster, nodes, folder, drawn.host.proxy())
    )


def down(site: Site, cluster: str, report: Report) -> None:
    """Remove the cluster and all its traces. InputError if there is none of that name."""
    row = site.ledger.cluster(cluster)
    host = site.ledger.host(row.host)
    names = [n.name for n in site.ledger.nodes(cluster)]
    with site.locked("launch", report):
        if host.kind == "sandbox" and not sandbox.alive(host):
            # Its libvirt still has the domains' definitions, and only it can take them away.
            report(f"starting sandbox host '{host.name}' to clear it")
            host = site.start_host(host.name)
        hypervisor, reach = site.connect(host), site.reach(host)
        try:
            look.account(site, host.name, hypervisor)
            lent = site.ledger.uplink(host.name)
            deploy.take_down(cluster, names, reach, hypervisor, report, lent)
        finally:
            hypervisor.close()
            reach.close()
        forget(site, cluster)
