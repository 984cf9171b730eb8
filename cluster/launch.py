"""`phx up` and `phx down` without their printing: spec, ledger, catalog and host together, planned, carried out.

A `Site` is one home folder: its ledger, its catalog, its hosts.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder import accelerator
from builder.document import Document, by_line, parse
from builder.errors import EnvironmentLacks, InputError, NoRoom, Problem, WorkFailed, close
from builder.images.catalog import Catalog
from builder.images.manifest import Manifest
from builder.plan import Report
from cluster import concern, deploy, leaving, network, offline, wait
from cluster import spec as specs
from cluster.hosts import netns, sandbox, store
from cluster.hosts.host import Host
from cluster.hosts.hypervisor import Hypervisor, Libvirt, Seen
from cluster.ledger import ClusterRow, Ledger, NodeRow
from cluster.place import Room, place
from cluster.plan import Action, ClusterPlan, Keep, Remove, Replace, compare, draw, guarantee
from cluster.spec import ClusterSpec, natural
from contextualize import context as contexts
from contextualize import declared as declarations
from contextualize import requirements, template
from contextualize.coordinator import Coordinator
from contextualize.declared import Declared
from contextualize.identity import Secret, derive, operator_key
from contextualize.render import VERSION

if TYPE_CHECKING:
    from contextualize.doorway import Doorway
    from contextualize.message import Report as Said

DEFAULT_HOST = "local"
DEFAULT_NETWORK = 1_000_000_000
"""bit/s that a sandbox's private networks promise together, unless --network says otherwise."""


class Site:
    """One home folder. Opening it costs a SQLite file and no connection."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ledger = Ledger(home)
        self.catalog = Catalog(home / "images")

    def files(self, cluster: str) -> Path:
        """Where a cluster's ssh_config, known_hosts and operator key lie."""
        return self.home / "clusters" / cluster

    @contextlib.contextmanager
    def locked(self, name: str, report: Report) -> Iterator[None]:
        """Hold the lock `name`, "launch" or a cluster's; says so when another phx has it."""
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                does = "launches or removes a cluster" if name == "launch" else f"changes {name}"
                report(f"waiting for another phx that {does}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def connect(self, host: Host) -> Hypervisor:
        """EnvironmentLacks, saying how to start it, if the host does not answer."""
        if host.kind == "sandbox" and not sandbox.alive(host):
            raise EnvironmentLacks(f"host '{host.name}' does not run", f"phx host up {host.name}")
        return Libvirt(host.uri)

    def start_host(self, name: str, bandwidth: int | None = None) -> Host:
        """A sandbox host, running and in the ledger. Without `bandwidth` it keeps what it had."""
        known = {h.name: h for h in self.ledger.hosts()}
        if name in known and known[name].kind != "sandbox":
            what = f"host '{name}' is {known[name].uri}, not a sandbox"
            raise InputError(Problem("", what, "choose another name"))
        kept = known[name].network if name in known else DEFAULT_NETWORK
        host = sandbox.up(name, self.home, self.catalog.root, bandwidth or kept)
        if name in known:
            host = replace(host, accelerator=known[name].accelerator)
        self.ledger.put_host(host)
        return host


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, and what has to be done for it."""

    spec: ClusterSpec
    host: Host
    plan: ClusterPlan
    actions: tuple[Action, ...]
    row: ClusterRow
    before: int
    """The generation that is in force; 0 when the ledger does not know the cluster yet."""
    images: Mapping[str, Manifest]
    """By the name that the cluster file gives them."""

    def silent(self, role: str) -> bool:
        """Whether nobody in the role's nodes reports: their image has neither our agent nor cloud-init."""
        return role in self.spec.roles and self.image(role).contextualization == "none"

    def image(self, role: str) -> Manifest:
        return self.images[self.spec.roles[role].image]

    @property
    def changes(self) -> tuple[Action, ...]:
        return tuple(a for a in self.actions if not isinstance(a, Keep))


def draft(
    site: Site,
    spec: ClusterSpec,
    document: Document,
    host_name: str | None,
    anew: Collection[str] = (),
) -> Draft:
    """Plan the cluster against what is there; nothing is changed.

    anew  nodes that are to be another machine in any case
    Raises InputError (an image that is not in the catalog, roles that wait for each other), NoRoom.
    """
    images = _images(site, spec, document)
    declared = _declared(spec, document, images)
    known = {c.name: c for c in site.ledger.clusters()}
    row = known.get(spec.cluster)
    hosts = _candidates(site, spec, document, host_name, row)
    used = [ipaddress.IPv4Network(c.network) for c in known.values() if c.name != spec.cluster]
    net = (
        ipaddress.IPv4Network(row.network)
        if row is not None and spec.network is None
        else network.choose(spec, used)
    )
    if row is not None and str(net) != row.network:
        what = f"the cluster runs on {row.network} and cannot move to {net}"
        raise InputError(document.problem(("network",), what, f"phx down {spec.cluster} first"))
    # Sandbox hosts are parts of one machine: what one has promised, no other has left.
    beside = [h for h in site.ledger.hosts() if h.kind == "sandbox" and h not in hosts]
    seen = {h.name: _seen(site, h) for h in (*hosts, *beside)}
    sandboxes = {h.name for h in (*hosts, *beside) if h.kind == "sandbox"}
    host = _choose(spec, hosts, seen, sandboxes)
    secret = row.secret if row else Secret(secrets.token_bytes(32))
    folders = {
        name: (m, deploy.base_folder(host, m.id, str(site.catalog.root)))
        for name, m in images.items()
    }
    nodes = site.ledger.nodes(spec.cluster) if row else []
    known_at = {n.name: ipaddress.IPv4Address(n.address) for n in nodes}
    plan = draw(spec, host, net, folders, secret, declared, known_at)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fresh = row or ClusterRow(spec.cluster, host.name, str(net), "", secret, now)
    fingerprint = contexts.fingerprint(plan.context)
    generation = fresh.generation + (fingerprint != fresh.context)
    if generation != plan.context.generation:
        plan = draw(spec, host, net, folders, secret, declared, known_at, generation)
    fresh = replace(
        fresh,
        spec=specs.text_of(document),
        host=host.name,
        generation=generation,
        context=fingerprint,
        images=json.dumps({name: images[role.image].id for name, role in spec.roles.items()}),
    )
    actions = compare(plan, seen[host.name], anew)
    before = row.generation if row else 0
    return Draft(spec, host, plan, actions, fresh, before, images)


def declared(site: Site, spec: ClusterSpec, document: Document) -> dict[str, Declared]:
    """What each role of a cluster file says of deployment, its image's recipe first. InputError if it cannot work."""
    return _declared(spec, document, _images(site, spec, document))


def _declared(
    spec: ClusterSpec, document: Document, images: Mapping[str, Manifest]
) -> dict[str, Declared]:
    """What each role says of deployment: its image's recipe, then the cluster file. InputError if it cannot work."""
    found: dict[str, Declared] = {}
    problems: list[Problem] = []
    for name, role in spec.roles.items():
        image = images[role.image]
        try:
            ours = declarations.declared(image.context)
        except ValueError as cause:
            what = f"image {image.short}: {cause}"
            problems.append(document.problem(("roles", name, "image"), what))
            continue
        found[name] = ours + specs.declared(spec, document, name)
        problems += [
            document.problem(("roles", name), f"{path}: {what}", "correct the template")
            for path, what in template.flaws(found[name])
        ]
    if not problems:
        counts = {name: role.count for name, role in spec.roles.items()}
        problems += [
            document.problem(("roles", flaw.role), flaw.what, flaw.hint)
            for flaw in requirements.flaws(found, counts)
        ]
        by_role = {name: images[role.image] for name, role in spec.roles.items()}
        problems += offline.flaws(by_role, found, document)
    if problems:
        raise InputError(by_line(problems))
    return found


def _images(site: Site, spec: ClusterSpec, document: Document) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    problems: list[Problem] = []
    for name, role in spec.roles.items():
        try:
            image = site.catalog.get(role.image, document.where(("roles", name, "image")))
        except InputError as cause:
            problems += cause.problems
            continue
        found[role.image] = image
        if image.agent not in (0, VERSION):
            what = f"the agent of image {image.short} reads seeds of version {image.agent}, not {VERSION}"
            hint = f"phx build {image.name}"
            problems.append(document.problem(("roles", name, "image"), what, hint))
        if role.disk < image.size:
            what = f"a disk of {role.disk >> 20}M is smaller than the image's {image.size >> 20}M"
            problems.append(document.problem(("roles", name, "disk"), what, "write a larger disk"))
    if problems:
        raise InputError(dict.fromkeys(problems))
    return found


def _candidates(
    site: Site, spec: ClusterSpec, document: Document, host_name: str | None, row: ClusterRow | None
) -> list[Host]:
    if row is not None:
        wanted = host_name or spec.host
        if wanted and wanted != row.host:
            what = f"the cluster is on host '{row.host}' and does not move to '{wanted}'"
            raise InputError(document.problem(("host",), what, f"phx down {spec.cluster} first"))
        return [site.ledger.host(row.host)]
    if host_name or spec.host:
        return [site.ledger.host(host_name or spec.host or "")]
    hosts = site.ledger.hosts()
    if hosts:
        return hosts
    return [sandbox.describe(DEFAULT_HOST, site.home, site.catalog.root, DEFAULT_NETWORK)]


def _seen(site: Site, host: Host) -> tuple[Seen, ...]:
    if host.kind == "sandbox" and not sandbox.alive(host):
        return ()
    hypervisor = site.connect(host)
    try:
        return hypervisor.observe()
    finally:
        hypervisor.close()


def _choose(
    spec: ClusterSpec,
    hosts: list[Host],
    seen: Mapping[str, tuple[Seen, ...]],
    sandboxes: set[str],
) -> Host:
    """The first host that holds the whole cluster: its nodes share one bridge."""
    wanted = [(node, guarantee(spec.roles[role])) for node, role in spec.names]
    rooms = []
    for host in hosts:
        room = Room(host.name, host.cpu, host.memory, host.network)
        here = sandboxes if host.name in sandboxes else {host.name}
        for s in (s for name in sorted(here) for s in seen[name]):
            if s.mark.cluster != spec.cluster:
                room = room.less(s.mark.guarantee)
        rooms.append(room)
    refused: list[NoRoom] = []
    for host, room in sorted(
        zip(hosts, rooms, strict=True), key=lambda p: (-p[1].memory, p[0].name)
    ):
        for node, given in wanted:
            if given.cpu_limit > host.cpu * 10 // 9 and given.vcpus * 1000 > host.cpu * 10 // 9:
                refused.append(
                    NoRoom(f"no host for {node}: its limit is {given.cpu_limit / 1000:g} cores",
                           f"{host.name} has {host.cpu * 10 // 9 / 1000:g}; lower cpu.limit")
                )  # fmt: skip
                break
        else:
            try:
                place(wanted, [room])
                return host
            except NoRoom as cause:
                refused.append(cause)
    raise refused[0]


def up(site: Site, path: Path, host_name: str | None, replace_: bool, report: Report) -> Draft:
    """Launch the cluster, or bring it to what its file says; returns when enough of its nodes are ready.

    replace_  whether nodes that would have to be another machine may be replaced, and others removed
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

    return _bring(site, spec, document, host_name, (), permitted, report)


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
    _, document = kept(site, cluster)
    spec, document = kept(site, cluster, specs.scaled(document, counts))
    return _bring(site, spec, document, None, (), _nothing_replaced, report)


def renew(site: Site, cluster: str, nodes: Collection[str], report: Report) -> Draft:
    """Give nodes another machine each, with the same identity and a fresh disk."""
    spec, document = kept(site, cluster)
    return _bring(site, spec, document, None, nodes, lambda _: None, report)


def recontext(site: Site, cluster: str, file: Path | None, report: Report) -> Draft:
    """Bring changed data, templates and keys to the running nodes; nothing else may have changed in the file."""
    now = specs.load(file)[1] if file else None
    if now and now.data["cluster"] != cluster:
        raise InputError(Problem(str(file), f"is of cluster {now.data['cluster']}, not {cluster}"))
    spec, document = kept(site, cluster, now)

    def permitted(drawn: Draft) -> None:
        if drawn.changes:
            what = f"{len(drawn.changes)} nodes would be started, replaced or removed"
            raise InputError(
                Problem(str(file or cluster), what, "phx plan shows it; phx up does it")
            )

    return _bring(site, spec, document, None, (), permitted, report)


def _nothing_replaced(drawn: Draft) -> None:
    lost = [f"{a.node.name} ({a.why})" for a in drawn.actions if isinstance(a, Replace)]
    if lost:
        what = f"{', '.join(lost)} would have to be replaced"
        hint = "phx up --replace with the cluster's file does it"
        raise InputError(Problem(drawn.spec.cluster, what, hint))


def _bring(
    site: Site,
    spec: ClusterSpec,
    document: Document,
    host_name: str | None,
    anew: Collection[str],
    permitted: Callable[[Draft], None],
    report: Report,
) -> Draft:
    """Bring the cluster to the spec: nodes that go say goodbye, the others come, all are told, then the leavers go.

    One cluster is changed by one phx at a time; `phx down` alone does not wait for it.
    """
    with site.locked(f"cluster-{spec.cluster}", report):
        return _change(site, spec, document, host_name, anew, permitted, report)


def _change(
    site: Site,
    spec: ClusterSpec,
    document: Document,
    host_name: str | None,
    anew: Collection[str],
    permitted: Callable[[Draft], None],
    report: Report,
) -> Draft:
    # Admission and launch are one act: nobody else promises or starts anything in between.
    with site.locked("launch", report):
        drawn = draft(site, spec, document, host_name, anew)
        if drawn.host.kind == "sandbox" and not sandbox.alive(drawn.host):
            report(f"starting sandbox host '{drawn.host.name}'")
            site.start_host(drawn.host.name)
            drawn = draft(site, spec, document, drawn.host.name, anew)
        if not drawn.host.accelerator:
            _accelerate(site, drawn)
            drawn = draft(site, spec, document, drawn.host.name, anew)
        host = drawn.host
        permitted(drawn)
        rows = [NodeRow(spec.cluster, n.name, n.role, n.address) for n in drawn.plan.nodes]
        before = {r.name: r for r in site.ledger.nodes(spec.cluster)}
        row = site.ledger.open_cluster(drawn.row, rows)
        drawn = replace(drawn, row=row)
        if row.generation != drawn.before:
            counts = ", ".join(f"{name} {role.count}" for name, role in spec.roles.items())
            site.ledger.note(spec.cluster, "", f"generation {row.generation}: {counts}")
        write_access(site, drawn)
        for image in drawn.images.values():
            site.catalog.hold(image, f"cluster {spec.cluster}")
        hypervisor = site.connect(host)
        try:
            _say_goodbye(site, drawn, report)
            staying = [a for a in drawn.actions if not isinstance(a, Remove)]
            # Whoever gets another machine, or boots again, is not ready, even if we die before we see it start.
            site.ledger.tell(
                *(replace(before[a.node.name], stage="defined", boot="", message="", context="")
                  for a in staying if not isinstance(a, Keep) and a.node.name in before)
            )  # fmt: skip
            if any(not isinstance(a, Keep) for a in staying):
                deploy.apply(
                    drawn.plan, staying, host, hypervisor, report, _inscriber(site, drawn, report)
                )
            elif changed := deploy.shape(drawn.plan, host):
                report(f"bandwidth of {', '.join(changed)} set again")
        except BaseException:
            hypervisor.close()
            raise
    try:
        _await(site, drawn, hypervisor, report)
        with site.locked("launch", report):
            going = [a for a in drawn.actions if isinstance(a, Remove)]
            deploy.remove(drawn.plan.cluster, going, host, hypervisor, report)
            gone = before.keys() - {n.name for n in drawn.plan.nodes}
            site.ledger.drop_nodes(spec.cluster, gone)
            for name in sorted(gone, key=natural):
                site.ledger.note(spec.cluster, name, "removed")
    finally:
        hypervisor.close()
    return drawn


def _inscriber(site: Site, drawn: Draft, report: Report) -> deploy.Inscribe:
    images = {name: drawn.image(name) for name in drawn.spec.roles}
    return offline.inscriber(drawn.plan, images, drawn.host, site.home, report)


def _say_goodbye(site: Site, drawn: Draft, report: Report) -> None:
    """Nodes that go run their leave hooks."""
    going = [a.node if isinstance(a, Remove) else a.node.name
             for a in drawn.actions if isinstance(a, Remove | Replace)]  # fmt: skip
    going = [node for node in going if not drawn.silent(node.rpartition("-")[0])]
    cluster = drawn.spec.cluster
    by_https = drawn.plan.context.https
    channels = {
        node: (
            None
            if node.rpartition("-")[0] in by_https
            else drawn.host.outside(store.channel(cluster, node)),
            derive(drawn.row.secret, cluster, node).token,
        )
        for node in going
    }
    if channels:
        with _doorway(drawn, {node: token for node, (_, token) in channels.items()}) as doorway:
            leaving.leave(channels, drawn.spec.hook_limit + 30, report, doorway)
        for node in going:
            site.ledger.note(cluster, node, "told to leave")


def _accelerate(site: Site, drawn: Draft) -> None:
    """Find out, by booting a probe from the cluster's first image, what guests on the host run under."""
    folder = site.catalog.folder(next(iter(drawn.images.values())))
    chosen = accelerator.choose(
        folder / "vmlinuz", folder / "initrd", site.home / "cache" / "accelerator.json"
    )
    site.ledger.put_host(replace(drawn.host, accelerator=chosen))


def _await(site: Site, drawn: Draft, hypervisor: Hypervisor, report: Report) -> None:
    """Tell nodes what is new for them and wait until enough are ready; nodes that nothing concerns are left alone."""
    host, cluster, spec = drawn.host, drawn.spec.cluster, drawn.spec
    rows = {r.name: r for r in site.ledger.nodes(cluster)}
    touched = {a.node.name for a in drawn.changes if not isinstance(a, Remove)}
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
            channel = host.outside(store.channel(cluster, n.name)) if n.machine.channel else None
            watched.append(
                wait.Watched(
                    row, n.domain, channel, n.identity.token, bases[n.name], n.name in due,
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
                drawn.plan, planned[node], host, hypervisor, _inscriber(site, drawn, report)
            )
            outside.forget(node)
            deploy.shape(drawn.plan, host)

    stages = {k: float(v) for k, v in spec.deadlines.model_dump().items() if v is not None}
    spare = {name: role.count - role.least for name, role in spec.roles.items()}
    counts = {name: role.count for name, role in spec.roles.items()}
    limits = wait.Limits(spec.deadline, stages, spare, counts)
    keys = {
        w.row.name: (w.row.address, silent[w.row.name].identity.host_key.public)
        for w in watched if w.silent
    }  # fmt: skip
    outside = offline.Outside(host, keys, lambda n: str(drawn.plan.documents.document(n)["digest"]))
    with _doorway(drawn) as doorway, outside:
        found = wait.Wait(
            watched, coordinator, hypervisor, limits, tell,
            lambda node: store.console_tail(host, cluster, node), mend, doorway, ran, outside.heard,
        ).until_ready()  # fmt: skip
    lost = [name for name, row in found.items() if row.stage != "healthy"]
    if lost:
        site.ledger.note(cluster, "", f"degraded: {', '.join(lost)} not ready")
        report(f"{cluster} is degraded: {', '.join(lost)} not ready; phx up tries again")


@contextlib.contextmanager
def _doorway(drawn: Draft, leaving: Mapping[str, Secret] | None = None) -> Iterator[Doorway | None]:
    """Where nodes that are reached by HTTPS come in; None when there is no such node.

    leaving  tokens of nodes that go: they are no longer in the plan
    """
    if not drawn.plan.context.https:
        yield None
        return
    from contextualize.certificate import PORT, certificate
    from contextualize.doorway import Doorway

    address = str(network.gateway(drawn.plan.network))
    listening = netns.listen(drawn.host.netns, address, PORT)
    own = certificate(drawn.row.secret, drawn.spec.cluster)
    tokens = {n.name: n.identity.token for n in drawn.plan.nodes} | dict(leaving or {})
    with Doorway(listening, own, tokens) as doorway:
        yield doorway


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
    enter = " ".join(drawn.host.enter())
    (folder / "ssh_config").write_text(
        contexts.ssh_config(drawn.spec.cluster, nodes, folder, enter)
    )


def forget(site: Site, cluster: str) -> None:
    """Remove what we keep of a cluster that is gone: its keys and its lines in the ledger."""
    shutil.rmtree(site.files(cluster), ignore_errors=True)
    site.catalog.release(f"cluster {cluster}")
    site.ledger.drop_cluster(cluster)


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
        hypervisor = site.connect(host)
        try:
            deploy.take_down(cluster, names, host, hypervisor, report)
        finally:
            hypervisor.close()
        forget(site, cluster)


def node_of(site: Site, name: str) -> tuple[ClusterRow, NodeRow]:
    """A node by NODE, or CLUSTER/NODE where two clusters have one of that name. InputError otherwise."""
    cluster, slash, node = name.rpartition("/")
    rows = [site.ledger.cluster(cluster)] if slash else site.ledger.clusters()
    found = [(c, n) for c in rows for n in site.ledger.nodes(c.name) if n.name == node]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{c.name}/{n.name}" for c, n in found)
        raise InputError(
            Problem("", f"{len(found)} nodes are called '{node}'", f"say which: {names}")
        )
    known = [n.name for c in rows for n in site.ledger.nodes(c.name)]
    hint = close(node, known) if known else "there is no cluster: phx up CLUSTER.yaml"
    raise InputError(Problem("", f"no node '{name}'", hint))
