"""`phx host`: hosts started and stopped, others registered, all of them described."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli import Json
from builder.terminal import Terminal, home, library, user

if TYPE_CHECKING:
    from cluster.calibrate.curve import Calibration

host = typer.Typer(no_args_is_help=True, help="Where guests run.")


HOOKED = "libvirt holds a guest whenever it starts"
UNHOOKED = "none: a guest that starts without phx is held by the next phx up"


def here(*, starts: bool = False) -> Any:
    """The home. `starts`: where none is yet, a sandbox host comes with it; who may not start one hears so first."""
    from cluster.site import Site

    if starts and not (home() / "ledger.sqlite").exists():
        from cluster.hosts import sandbox

        sandbox.demand_root()
    return Site(home(), user())


@host.command("up")
def host_up(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local",
    xen: Annotated[
        bool, typer.Option("--xen", help="An emulated Xen host: the appliance xen-host in QEMU.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="Bandwidth its private networks may promise, 1Gbit at first.")
    ] = None,
    cpus: Annotated[
        str | None,
        typer.Option(help="The machine's CPUs that its guests run on, as in 0-1; else all."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of a Xen host, dom0's 1G included; 4G at first."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Of a Xen host; at first as many as this machine has.")
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of a Xen host, for its guests; 20G at first."),
    ] = None,
) -> None:
    """Start a sandbox host: a libvirtd of our own in namespaces of its own. With --xen, a Xen host in QEMU."""
    from builder.errors import InputError, Problem

    _host_name(name)
    bandwidth, terminal = _bandwidth(network), Terminal()
    room = {
        "--memory": _size("--memory", memory),
        "--cores": cores,
        "--disk": _size("--disk", disk),
    }
    site = here(starts=not xen)
    known = {h.name: h.kind for h in site.ledger.hosts()}
    if xen or known.get(name) == "xen":
        from cluster.hosts import registry, xenhost

        if cpus is not None:
            what = "a Xen host runs on all CPUs of this machine"
            raise InputError(Problem("--cpus", what, "--cores says how many it shows"))
        image = xenhost.appliance(site.home, library(), site.catalog, terminal.report)
        started = registry.start_xen(site, name, image, bandwidth, terminal.report, *room.values())
    elif given := [option for option, value in room.items() if value is not None]:
        raise InputError(Problem(given[0], "a sandbox has what this machine has", "add --xen"))
    else:
        from cluster.hosts import registry
        from cluster.verify import mend

        with site.locked("launch", terminal.report):
            ran = any(h.name == name and registry.answers(h) for h in site.ledger.hosts())
            started = site.start_host(name, bandwidth, cpus)
            if not ran:
                mend.started(site, started, "", terminal.report)
    terminal.say(f"host '{name}' runs: {started.uri}")


def _host_name(name: str) -> None:
    """A host's name becomes a folder's and a namespace's: it must be a plain one."""
    from builder.errors import InputError, Problem
    from builder.language.kinds import name_of

    try:
        name_of(name)
    except ValueError as cause:
        raise InputError(Problem("", *str(cause).split("; "))) from None


def _bandwidth(text: str | None) -> int | None:
    from builder import units
    from builder.errors import InputError, Problem

    try:
        return units.rate(text) if text else None
    except ValueError as cause:
        raise InputError(Problem("--network", *str(cause).split("; "))) from None


def _size(option: str, text: str | None) -> int | None:
    from builder import units
    from builder.errors import InputError, Problem

    try:
        return units.size(text) if text else None
    except ValueError as cause:
        raise InputError(Problem(option, *str(cause).split("; "))) from None


@host.command("down")
def host_down(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local",
    force: Annotated[
        bool, typer.Option("--force", help="Even with clusters on it; they are lost.")
    ] = False,
) -> None:
    """Stop a host that was started and remove it; forget one that was added."""
    from builder.errors import InputError, Problem
    from cluster.hosts import registry
    from cluster.site import forget

    site = here()
    found = site.ledger.host(name)
    there = [c.name for c in site.ledger.clusters() if c.host == name]
    if there and not force:
        raise InputError(
            Problem("", f"host '{name}' has clusters: {', '.join(there)}",
                    f"phx down {there[0]} first, or --force to lose them")
        )  # fmt: skip
    for cluster in there:
        forget(site, cluster)
    left = registry.end(site, found)
    Terminal().say(f"host '{name}' is gone" + (f"; {left}" if left else ""))


@host.command("add")
def host_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    uri: Annotated[
        str,
        typer.Argument(help="libvirt's address: qemu:///system, xen+ssh://root@machine/system."),
    ],
    network: Annotated[
        str, typer.Option(help="Bandwidth its private networks may promise.")
    ] = "1Gbit",
    ssh_config: Annotated[
        Path | None, typer.Option(help="The ssh_config that knows the way; else your own.")
    ] = None,
    no_hook: Annotated[
        bool,
        typer.Option(
            "--no-hook", help="Put no hook of libvirt's on a Xen host: no autostart there."
        ),
    ] = False,
) -> None:
    """Register a libvirt that is there already: on this machine, or on another one by SSH."""
    from cluster.hosts import registry
    from cluster.site import DEFAULT_NETWORK

    _host_name(name)
    bandwidth = _bandwidth(network) or DEFAULT_NETWORK
    found, told, done = registry.add(here(), name, uri, ssh_config, bandwidth, not no_hook)
    Terminal().say(f"host '{name}' added: {told.named}, {found.cpu / 1000:g} cores for guests")
    if done:
        Terminal().say(f"there {done}; phx host down {name} removes it")


@host.command("uplink")
def host_uplink(
    name: Annotated[str, typer.Argument(help="The host's name.")],
    device: Annotated[
        str, typer.Argument(metavar="DEVICE:RATE", help="As in eth1:1Gbit; `none` takes it back.")
    ],
) -> None:
    """Lend a device that leads outside to the cluster whose file says uplink: true."""
    from builder.errors import InputError, Problem
    from cluster.hosts import policy

    site = here()
    site.ledger.host(name)
    if on := site.uses_uplink(name):
        what = f"the uplink of host '{name}' is used by {on[0]}"
        raise InputError(Problem("", what, f"phx down {on[0]} first"))
    try:
        lent = None if device == "none" else policy.uplink(device)
    except ValueError as cause:
        raise InputError(Problem("", *str(cause).split("; "))) from None
    site.ledger.put_uplink(name, lent)
    Terminal().say(f"host '{name}' lends {lent or 'no uplink'}")


@host.command("overcommit")
def host_overcommit(
    name: Annotated[str, typer.Argument(help="The host's name.")],
    factor: Annotated[str, typer.Argument(metavar="FACTOR", help="From 1 to 100, as in 1.5.")],
) -> None:
    """Say how many times over a host promises its disk space; disks are thin."""
    from builder.errors import InputError, Problem
    from cluster.hosts import policy

    site = here()
    site.ledger.host(name)
    try:
        decided = policy.overcommit(factor)
    except ValueError as cause:
        raise InputError(Problem("", *str(cause).split("; "))) from None
    site.ledger.put_overcommit(name, decided)
    Terminal().say(f"host '{name}' promises its disk space {decided:g} times")


@host.command("calibrate")
def host_calibrate(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local", as_json: Json = False
) -> None:
    """Measure what network traffic costs in CPU, with two guests, and keep it with the host."""
    from cluster.calibrate import sweep

    terminal, site = Terminal(), here()
    found = sweep.calibrate(site, site.ledger.host(name), terminal.report)
    site.ledger.put_calibration(name, found)
    if as_json:
        terminal.json(found.told())
    else:
        terminal.table(("DIRECTION", "CAP", "USED", "OF IT HOST", "BANDWIDTH"), sweep.table(found))
        terminal.say(
            f"host '{name}' is calibrated: a guest without traffic uses {found.idle / 1000:g} cores"
        )


@host.command("ls")
def host_ls(as_json: Json = False) -> None:
    """List the hosts, and whether they answer within 10 seconds."""
    from cluster.hosts import registry

    terminal, hosts = Terminal(), here().ledger.hosts()
    told = registry.answering(hosts)
    rows = [(h, told[h.name]) for h in hosts]
    if as_json:
        terminal.json([{**asdict(h), "answers": ok} for h, ok in rows])
    else:
        terminal.table(("HOST", "KIND", "ANSWERS", "URI"),
                       [(h.name, h.kind, "yes" if ok else "no", h.uri) for h, ok in rows])  # fmt: skip


def _cost(known: Calibration | None) -> str:
    from cluster.calibrate.curve import DIRECTIONS

    if known is None:
        return "not calibrated (phx host calibrate measures what it costs)"
    told = [f"{known.curve(d).bandwidth_for(500) // 10**6}Mbit {d}" for d in DIRECTIONS]
    return f"half a core carries {' or '.join(told)}; calibrated {known.when}"


@host.command("show")
def host_show(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local", as_json: Json = False
) -> None:
    """Describe one host: what it is, what it can promise, what is promised."""
    from builder.units import show_about, show_size
    from cluster import occupancy
    from cluster.hosts.facts import with_kernel
    from cluster.place import Room, left

    terminal, site = Terminal(), here()
    found = site.ledger.host(name)
    hypervisor, reach = site.connect(found), site.reach(found)
    try:
        facts, seen = with_kernel(hypervisor.facts(), reach), hypervisor.observe()
        space = reach.space()
    finally:
        hypervisor.close()
        reach.close()
    known = site.ledger.calibration(name)
    whole = Room.of(found, occupancy.disk(site, found))
    room = left(whole, occupancy.marks(site, found), site.ledger.papers.intents())
    if as_json:
        terminal.json({**asdict(found), "facts": asdict(facts), "left": asdict(room),
                       "calibration": known.told() if known else None,
                       "domains": [s.name for s in seen]})  # fmt: skip
        return
    own = f", of which dom0 has {facts.own / 1000:g}" if facts.own else ""
    rows = [
        ("kernel", facts.kernel),
        ("guests", ", ".join(facts.modes)),
        ("accelerator", found.accelerator or "not probed yet (phx up does)"),
        ("scheduler", facts.scheduler),
        ("has", f"{facts.cores} cores{own}, {show_size(facts.memory)}, {show_size(facts.free)} of it free"),
        ("disk", f"{show_about(space.free)} free, promised {site.ledger.overcommit(found):g} times"),
        ("promises", str(whole).removesuffix(" left")),
        ("left", str(room).removesuffix(" left")),
        *([("hook", HOOKED if found.hook else UNHOOKED)] if found.driver == "xen" else []),
        ("domains", str(len(seen))),
        ("traffic", _cost(known)),
        ("uplink", str(site.ledger.uplink(name) or "none (phx host uplink lends one)")),
        *(("limit", text) for text in facts.limits),
    ]  # fmt: skip
    terminal.say(f"{name}: {found.kind}, {facts.named}, {found.uri}")
    terminal.say("\n".join(f"{word:<12} {text}" for word, text in rows))
