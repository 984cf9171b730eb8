"""`phx host`: sandbox hosts started and stopped, others registered, all of them described."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from builder.cli import Json
from builder.terminal import Terminal, home, user

host = typer.Typer(no_args_is_help=True, help="Where guests run.")


def here(*, starts: bool = False) -> Any:
    """The home. `starts`: where none is yet, a sandbox host comes with it; who may not start one hears so first."""
    from cluster.site import Site

    if starts and not (home() / "ledger.sqlite").exists():
        from cluster.hosts import sandbox

        sandbox.demand_root()
    return Site(home(), user())


@host.command("up")
def host_up(
    name: Annotated[str, typer.Argument(help="The sandbox host's name.")] = "local",
    network: Annotated[
        str | None, typer.Option(help="Bandwidth its private networks may promise, 1Gbit at first.")
    ] = None,
    cpus: Annotated[
        str | None,
        typer.Option(help="The machine's CPUs that its guests run on, as in 0-1; else all."),
    ] = None,
) -> None:
    """Start a sandbox host: a libvirtd of our own in namespaces of its own."""
    _host_name(name)
    bandwidth = _bandwidth(network)
    started = here(starts=True).start_host(name, bandwidth, cpus)
    Terminal().say(f"host '{name}' runs: {started.uri}")


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


@host.command("down")
def host_down(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local",
    force: Annotated[
        bool, typer.Option("--force", help="Even with clusters on it; they are lost.")
    ] = False,
) -> None:
    """Stop a sandbox host and remove it; forget a host that was added."""
    from builder.errors import InputError, Problem
    from cluster.hosts import sandbox
    from cluster.site import forget

    site = here()
    found = site.ledger.host(name)
    there = [c.name for c in site.ledger.clusters() if c.host == name]
    if there and not force:
        raise InputError(
            Problem("", f"host '{name}' has clusters: {', '.join(there)}",
                    f"phx down {there[0]} first, or --force to lose them")
        )  # fmt: skip
    if found.kind == "sandbox":
        sandbox.down(found)
    for cluster in there:
        forget(site, cluster)
    site.ledger.drop_host(name)
    Terminal().say(f"host '{name}' is gone")


@host.command("add")
def host_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    uri: Annotated[str, typer.Argument(help="libvirt's address of it, as in qemu:///system.")],
    network: Annotated[
        str, typer.Option(help="Bandwidth its private networks may promise.")
    ] = "1Gbit",
) -> None:
    """Register a libvirt that is there already, on this machine."""
    from builder.errors import InputError, Problem
    from cluster.hosts.host import Host
    from cluster.hosts.hypervisor import Libvirt
    from cluster.site import DEFAULT_NETWORK

    _host_name(name)
    if not uri.startswith(("qemu:///system", "qemu+unix:///system")):
        what = f"{uri} is not a QEMU host on this machine"
        raise InputError(Problem("", what, "hosts over SSH and Xen hosts are not supported yet"))
    site = here()
    if name in {h.name for h in site.ledger.hosts()}:
        raise InputError(
            Problem("", f"there is a host '{name}' already", f"phx host down {name} first")
        )
    hypervisor = Libvirt(uri)
    try:
        facts = hypervisor.facts()
    finally:
        hypervisor.close()
    memory = max(0, facts.memory - (1 << 30))
    bandwidth = _bandwidth(network) or DEFAULT_NETWORK
    cores, catalog = facts.cores * 900, str(site.catalog.root)
    site.ledger.put_host(
        Host(name, "libvirt", uri, "", "", "", cores, memory, bandwidth, catalog=catalog)
    )
    Terminal().say(f"host '{name}' added: {facts.driver} {facts.version}, {facts.cores} cores")


@host.command("ls")
def host_ls(as_json: Json = False) -> None:
    """List the hosts, and whether they answer."""
    terminal = Terminal()
    rows = [(h, _answers(h)) for h in here().ledger.hosts()]
    if as_json:
        terminal.json([{**asdict(h), "answers": ok} for h, ok in rows])
    else:
        terminal.table(("HOST", "KIND", "ANSWERS", "URI"),
                       [(h.name, h.kind, "yes" if ok else "no", h.uri) for h, ok in rows])  # fmt: skip


def _answers(found: Any) -> bool:
    from builder.errors import PhiloxeniaError
    from cluster.hosts import sandbox
    from cluster.hosts.hypervisor import Libvirt

    if found.kind == "sandbox":
        return sandbox.alive(found)
    try:
        Libvirt(found.uri).close()
    except PhiloxeniaError:
        return False
    return True


@host.command("show")
def host_show(
    name: Annotated[str, typer.Argument(help="The host's name.")] = "local", as_json: Json = False
) -> None:
    """Describe one host: what it is, what it can promise, what is promised."""
    from cluster.place import Room

    terminal, site = Terminal(), here()
    found = site.ledger.host(name)
    hypervisor = site.connect(found)
    try:
        facts, seen = hypervisor.facts(), hypervisor.observe()
    finally:
        hypervisor.close()
    room = Room.of(found)
    for s in seen:
        room = room.less(s.mark.guarantee)
    if as_json:
        terminal.json({**asdict(found), "facts": asdict(facts), "left": asdict(room),
                       "domains": [s.name for s in seen]})  # fmt: skip
        return
    whole = Room.of(found)
    terminal.say(
        f"{name}: {found.kind}, {facts.driver} {facts.version}, {found.uri}\n"
        f"accelerator  {found.accelerator or 'not probed yet (phx up does)'}\n"
        f"promises     {str(whole).removesuffix(' left')}\nleft         {str(room).removesuffix(' left')}\n"
        f"domains      {len(seen)}"
    )
