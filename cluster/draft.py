"""Spec, ledger, catalog and hosts brought together: what would be done for a cluster. Nothing is changed."""

from __future__ import annotations

import datetime
import ipaddress
import json
import platform
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from builder.document import Document, Place, by_line
from builder.errors import EnvironmentLacks, InputError, NoRoom, Problem
from builder.images.manifest import Manifest
from builder.language.requires import Requires
from cluster import network, occupancy, offline
from cluster import spec as specs
from cluster.actions import Action, Keep, compare
from cluster.calibrate.curve import Calibration, refusal
from cluster.contract.terms import Term, in_force, promised
from cluster.guarantee import Guarantee, refusals
from cluster.hosts import guarding, sandbox
from cluster.hosts.facts import HostFacts, with_kernel
from cluster.hosts.host import Host, cpu_list, cpu_text
from cluster.hosts.policy import Uplink
from cluster.ledger import ClusterRow
from cluster.place import Room, lend, place
from cluster.plan import ClusterPlan, draw, guarantee, virtualization
from cluster.requires import lacks
from cluster.site import DEFAULT_HOST, DEFAULT_NETWORK, Site
from cluster.spec import ClusterSpec
from contextualize import context as contexts
from contextualize import declared as declarations
from contextualize import requirements, template
from contextualize.declared import Declared
from contextualize.identity import Secret
from contextualize.render import VERSION

HOOK = "phx host down {name}, and phx host add without --no-hook puts libvirt's hook there"


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
    terms: tuple[Term, ...] = ()
    """What was agreed since and is still in force."""

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
    terms: Collection[Term] | None = None,
) -> Draft:
    """Plan the cluster against what is there; nothing is changed.

    anew   nodes that are to be another machine in any case
    terms  what was agreed since; those of the ledger unless they are given
    Raises InputError (an image that is not in the catalog, roles that wait for each other), NoRoom,
    EnvironmentLacks (a host that cannot hold what is promised).
    """
    images = _images(site, spec, document)
    declared = _declared(spec, document, images)
    known = {c.name: c for c in site.ledger.clusters()}
    row = known.get(spec.cluster)
    hosts = _able(site, spec, document, images, _candidates(site, spec, document, host_name, row))
    used = [ipaddress.IPv4Network(c.network) for c in known.values() if c.name != spec.cluster]
    net = (
        ipaddress.IPv4Network(row.network)
        if row is not None and spec.network is None
        else network.choose(spec, used)
    )
    if row is not None and str(net) != row.network:
        what = f"the cluster runs on {row.network} and cannot move to {net}"
        raise InputError(document.problem(("network",), what, f"phx down {spec.cluster} first"))
    agreed = site.ledger.papers.terms(spec.cluster) if terms is None else terms
    written = {name: guarantee(role) for name, role in spec.roles.items()}
    promises = {node: promised(node, role, written[role], agreed) for node, role in spec.names}
    calibrations = {h.name: site.ledger.calibration(h.name) for h in hosts}
    rooms = _rooms(site, hosts, spec.cluster)
    hosts = [h for h in hosts if h.name in rooms]
    host = _choose(promises, hosts, [rooms[h.name] for h in hosts], calibrations)
    _enforceable(spec, document, host, promises)
    _pinned(site, spec, document, host, promises)
    secret = row.secret if row else Secret(secrets.token_bytes(32))
    folders = {name: (m, host.image(m.id)) for name, m in images.items()}
    nodes = site.ledger.nodes(spec.cluster) if row else []
    known_at = {n.name: ipaddress.IPv4Address(n.address) for n in nodes}
    plan = draw(spec, host, net, folders, secret, declared, known_at, promises=promises)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fresh = row or ClusterRow(spec.cluster, host.name, str(net), "", secret, now)
    fingerprint = contexts.fingerprint(plan.context)
    generation = fresh.generation + (fingerprint != fresh.context)
    if generation != plan.context.generation:
        plan = draw(spec, host, net, folders, secret, declared, known_at, generation, promises)
    fresh = replace(
        fresh,
        spec=specs.text_of(document),
        host=host.name,
        owner=spec.owner or fresh.owner or site.user,
        generation=generation,
        context=fingerprint,
        images=json.dumps({name: images[role.image].id for name, role in spec.roles.items()}),
    )
    if spec.uplink:
        plan = replace(plan, uplink=_uplink(site, spec, document, host, promises))
    if plan.senders:
        _demand_guard(site, host)
    actions = compare(plan, occupancy.seen(site, host), anew)
    before = row.generation if row else 0
    terms = tuple(in_force(agreed, written))
    return Draft(spec, host, plan, actions, fresh, before, images, terms)


def _rooms(site: Site, hosts: list[Host], cluster: str) -> dict[str, Room]:
    """What each host has left; one that does not answer is left out, unless none does."""
    found: dict[str, Room] = {}
    silent: list[EnvironmentLacks] = []
    for host in hosts:
        try:
            found[host.name] = occupancy.room(site, host, cluster, disks=True)
        except EnvironmentLacks as cause:
            silent.append(cause)
    if not found:
        raise silent[0]
    return found


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
        if role.disk.size < image.size:
            what = (
                f"a disk of {role.disk.size >> 20}M is smaller than the image's {image.size >> 20}M"
            )
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


def _uplink(
    site: Site, spec: ClusterSpec, document: Document, host: Host, promises: Mapping[str, Guarantee]
) -> Uplink:
    """What the host lends to the cluster. InputError if that is nothing, NoRoom if it carries less than is promised."""
    lent = site.ledger.uplink(host.name)
    if lent is None:
        what = f"host '{host.name}' lends no uplink"
        hint = f"phx host uplink {host.name} DEVICE:RATE"
        raise InputError(document.problem(("uplink",), what, hint))
    if others := [c for c in site.uses_uplink(host.name) if c != spec.cluster]:
        what = f"the uplink of host '{host.name}' is used by {others[0]}"
        raise InputError(document.problem(("uplink",), what, f"phx down {others[0]} first"))
    lend(host.name, lent, promises.values())
    return lent


def _pinned(
    site: Site, spec: ClusterSpec, document: Document, host: Host, promises: Mapping[str, Guarantee]
) -> None:
    """InputError for CPUs that the host has not, NoRoom if they do not carry what is guaranteed to who stays there."""
    if not any(role.cpu.pin for role in spec.roles.values()):
        return
    there = occupancy.cpus(site, host)
    problems = [
        document.problem(("roles", name, "cpu", "pin"), f"host '{host.name}' has no CPU {cpu_text(lacks)}",
                         f"it has {cpu_text(there)}")
        for name, role in spec.roles.items()
        if role.cpu.pin and (lacks := cpu_list(role.cpu.pin) - there)
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    ours = {
        node: (promises[node].cpu_guarantee, spec.roles[role].cpu.pin) for node, role in spec.names
    }
    occupancy.stay(site, host, ours, spec.cluster)


def _demand_guard(site: Site, host: Host) -> None:
    """EnvironmentLacks if the host runs and cannot keep guests to their own addresses."""
    if host.kind == "xen" or (host.kind == "sandbox" and not sandbox.alive(host)):
        return  # our own Xen host has what it takes, by its recipe
    reach = site.reach(host)
    try:
        guarding.demand(reach)
    finally:
        reach.close()


def _able(
    site: Site,
    spec: ClusterSpec,
    document: Document,
    images: Mapping[str, Manifest],
    hosts: list[Host],
) -> list[Host]:
    """Those that can run every role. InputError with what is wrong with each if none can."""
    found: dict[str, list[Problem]] = {}
    for host in hosts:
        problems = found.setdefault(host.name, [])
        for name, role in spec.roles.items():
            try:
                virtualization(role, host, images[role.image])
            except ValueError as cause:
                place = ("roles", name, "virtualization")
                problems.append(document.problem(place, *str(cause).split("; ")))
            if role.channel == "https" and host.ssh:
                what = (
                    f"host '{host.name}' is another machine: its nodes' HTTPS does not come in here"
                )
                problems.append(
                    document.problem(("roles", name, "channel"), what, "write channel: virtio")
                )
            if role.autostart and host.kind == "libvirt" and not host.hook:
                what = f"host '{host.name}' does not hold guests to their promises that start without phx"
                hint = (
                    "write autostart: false"
                    if host.driver == "qemu"
                    else HOOK.format(name=host.name)
                )
                problems.append(document.problem(("roles", name, "autostart"), what, hint))
        problems += _required(site, spec, document, images, host)
    able = [h for h in hosts if not found[h.name]]
    if not able:
        raise InputError(by_line(p for host in hosts for p in found[host.name]))
    return able


def _required(
    site: Site, spec: ClusterSpec, document: Document, images: Mapping[str, Manifest], host: Host
) -> list[Problem]:
    """What of the `requires` of the file and of its images' recipes the host is not. It is asked only if that says
    something of versions.
    """
    wanted: list[tuple[Place, Requires]] = [(("requires",), spec.requires)]
    wanted += [(("roles", name, "requires"), role.requires) for name, role in spec.roles.items()]
    wanted += [
        (("roles", name, "image"), Requires.model_validate(dict(images[role.image].requires)))
        for name, role in spec.roles.items()
    ]
    told = HostFacts(host.driver, "", 0, 0, (), kernel=platform.release())
    asleep = host.kind == "sandbox" and not sandbox.alive(host)
    if any(one.version or (one.kernel and not asleep) for _, one in wanted):
        try:
            told = _facts(site, host)
        except EnvironmentLacks as cause:
            place = next(place for place, one in wanted if one.version or one.kernel)
            return [document.problem(place, cause.what, cause.hint)]
    hint = f"phx host show {host.name} tells what it is"
    return [
        document.problem(place if place[-1] == "image" else (*place, key), f"host '{host.name}' {what}", hint)
        for place, one in wanted for key, what in lacks(one, told)
    ]  # fmt: skip


def _facts(site: Site, host: Host) -> HostFacts:
    hypervisor, reach = site.connect(host), site.reach(host)
    try:
        return with_kernel(hypervisor.facts(), reach)
    finally:
        hypervisor.close()
        reach.close()


def _enforceable(
    spec: ClusterSpec, document: Document, host: Host, promises: Mapping[str, Guarantee]
) -> None:
    """InputError naming each key of a promise that the host's driver cannot keep, and why."""
    problems = [
        document.problem(
            ("roles", name, *found.key.split(".")),
            f"host '{host.name}' cannot hold it: {found.why}", found.remedy,
        )
        for name, given in dict.fromkeys((role, promises[node]) for node, role in spec.names)
        for found in refusals(given, host.driver)
    ]  # fmt: skip
    if problems:
        raise InputError(by_line(problems))


def beyond(host: Host, given: Guarantee) -> bool:
    """Whether a CPU limit is above what the host's machine has at all."""
    cores = host.cpu * 10 // 9
    return given.cpu_limit > cores and given.vcpus * 1000 > cores


def _choose(
    promises: Mapping[str, Guarantee], hosts: list[Host], rooms: list[Room],
    calibrations: Mapping[str, Calibration | None],
) -> Host:  # fmt: skip
    """The first host that holds the whole cluster: its nodes share one bridge."""
    wanted = list(promises.items())
    refused: list[NoRoom] = []
    for host, room in sorted(
        zip(hosts, rooms, strict=True), key=lambda p: (-p[1].memory, p[0].name)
    ):
        for node, given in wanted:
            if beyond(host, given):
                refused.append(
                    NoRoom(f"no host for {node}: its limit is {given.cpu_limit / 1000:g} cores",
                           f"{host.name} has {host.cpu * 10 // 9 / 1000:g}; lower cpu.limit")
                )  # fmt: skip
                break
            if (why := refusal(given, calibrations[host.name])) is not None:
                refused.append(NoRoom(f"host '{host.name}' is not for {node}: {why[0]}", why[1]))
                break
        else:
            try:
                place(wanted, [room])
                return host
            except NoRoom as cause:
                refused.append(cause)
    raise refused[0]
