"""`phx`, the front door: hosts and clusters here, images from the builder. The only place that prints and exits.

Imports are inside the commands: `phx --help` answers before pydantic, SQLAlchemy or libvirt are read.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import cli as builder_cli
from builder import grammar
from builder.cli import Json
from builder.images.cli import image
from builder.terminal import Terminal, home
from cluster import membership, testing, tools

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Philoxenia: recipes become appliance images, images become clusters that know themselves.",
)  # fmt: skip
host = typer.Typer(no_args_is_help=True, help="Where guests run.")
app.command("build", cls=grammar.BuildCommand)(builder_cli.build)
app.command("lock", cls=grammar.LockCommand)(builder_cli.lock)
app.command("test")(testing.test)
app.command("scale")(membership.scale)
app.command("replace")(membership.replace)
app.command("recontext")(membership.recontext)
app.command("events")(membership.events)
tools.register(app)
app.add_typer(image, name="image")
app.add_typer(host, name="host")

Cluster = Annotated[Path, typer.Argument(metavar="CLUSTER.yaml", help="The cluster's file.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="NODE, or CLUSTER/NODE.")]
OnHost = Annotated[str | None, typer.Option("--host", help="The host to use.")]


def main() -> None:
    """The program. Errors of ours become text and their exit status; anything else is a bug and is shown whole."""
    from builder.errors import EnvironmentLacks, PhiloxeniaError, WorkFailed, explain

    try:
        app(prog_name="phx")
    except PhiloxeniaError as error:
        Terminal().error(explain(error))
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130 and not isinstance(end, membership.EndedByHand):  # typer's, of Ctrl-C
            Terminal().error("interrupted; run the same command again to go on")
        raise
    except PermissionError as error:
        if not str(error.filename or "").startswith(str(home())):
            raise
        lacks = EnvironmentLacks(
            f"{error.filename} is not yours to use",
            "PHX_HOME names a folder of your own; what root made needs sudo",
        )
        Terminal().error(explain(lacks))
        sys.exit(lacks.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = WorkFailed(
            f"the disk is full: {error.filename or home()}",
            "make room; PHX_HOME names another folder",
        )
        Terminal().error(explain(full))
        sys.exit(full.exit_code)


def _site(*, starts: bool = False) -> Any:
    """The home. `starts`: where none is yet, a sandbox host comes with it; who may not start one hears so first."""
    from cluster.site import Site

    if starts and not (home() / "ledger.sqlite").exists():
        from cluster.hosts import sandbox

        sandbox.demand_root()
    return Site(home())


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has, what it lacks, and what to do about it."""
    from cluster import doctor as checks

    terminal = Terminal()
    found = checks.examine(home())
    if as_json:
        terminal.json([asdict(c) for c in found])
    else:
        terminal.table(("", "CHECK", "FOUND", "REMEDY"),
                       [("ok" if c.ok else "LACKS", c.name, c.found, c.remedy) for c in found])  # fmt: skip
    if not all(c.ok for c in found):
        raise typer.Exit(3)


class Document(StrEnum):
    """What people write."""

    recipe = "recipe"
    cluster = "cluster"


@app.command("schema")
def schema_(
    document: Annotated[
        Document, typer.Argument(metavar="recipe|cluster", help="recipe.yaml or cluster.yaml.")
    ],
) -> None:
    """Print the JSON Schema of a document, with which editors complete and check it."""
    from builder.language import sections
    from cluster import spec

    schema = sections.schema() if document is Document.recipe else spec.schema()
    Terminal().json(schema)


@host.command("up")
def host_up(
    name: Annotated[str, typer.Argument(help="The sandbox host's name.")] = "local",
    network: Annotated[
        str | None, typer.Option(help="Bandwidth its private networks may promise, 1Gbit at first.")
    ] = None,
) -> None:
    """Start a sandbox host: a libvirtd of our own in namespaces of its own."""
    _host_name(name)
    bandwidth = _bandwidth(network)
    started = _site(starts=True).start_host(name, bandwidth)
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

    site = _site()
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

    _host_name(name)
    if not uri.startswith(("qemu:///system", "qemu+unix:///system")):
        what = f"{uri} is not a QEMU host on this machine"
        raise InputError(Problem("", what, "hosts over SSH and Xen hosts are not supported yet"))
    site = _site()
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
    bandwidth = _bandwidth(network) or launch_default()
    site.ledger.put_host(
        Host(name, "libvirt", uri, "", "", "", facts.cores * 900, memory, bandwidth)
    )
    Terminal().say(f"host '{name}' added: {facts.driver} {facts.version}, {facts.cores} cores")


def launch_default() -> int:
    from cluster.site import DEFAULT_NETWORK

    return DEFAULT_NETWORK


@host.command("ls")
def host_ls(as_json: Json = False) -> None:
    """List the hosts, and whether they answer."""
    terminal = Terminal()
    rows = [(h, _answers(h)) for h in _site().ledger.hosts()]
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

    terminal, site = Terminal(), _site()
    found = site.ledger.host(name)
    hypervisor = site.connect(found)
    try:
        facts, seen = hypervisor.facts(), hypervisor.observe()
    finally:
        hypervisor.close()
    room = Room(name, found.cpu, found.memory, found.network)
    for s in seen:
        room = room.less(s.mark.guarantee)
    if as_json:
        terminal.json({**asdict(found), "facts": asdict(facts), "left": asdict(room),
                       "domains": [s.name for s in seen]})  # fmt: skip
        return
    whole = Room(name, found.cpu, found.memory, found.network)
    terminal.say(
        f"{name}: {found.kind}, {facts.driver} {facts.version}, {found.uri}\n"
        f"accelerator  {found.accelerator or 'not probed yet (phx up does)'}\n"
        f"promises     {str(whole).removesuffix(' left')}\nleft         {str(room).removesuffix(' left')}\n"
        f"domains      {len(seen)}"
    )


@app.command("plan")
def plan_(file: Cluster, on: OnHost = None, as_json: Json = False) -> None:
    """Show what `phx up` would do, and change nothing."""
    from cluster import show, spec
    from cluster.draft import draft

    terminal, site = Terminal(), _site()
    parsed, document = spec.load(file)
    drawn = draft(site, parsed, document, on)
    if as_json:
        terminal.json(show.plan_data(drawn))
    else:
        show.plan(drawn, terminal)


@app.command("up")
def up_(
    file: Cluster,
    on: OnHost = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace nodes that changed and remove those not named."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Launch a cluster, or bring it to what its file says; ends when every node is ready."""
    from cluster import launch, show

    terminal, site = Terminal(), _site(starts=True)
    drawn = launch.up(site, file, on, replace, terminal.report)
    rows = show.nodes(site, [drawn.spec.cluster])
    if as_json:
        terminal.json({"cluster": drawn.spec.cluster, "changes": len(drawn.changes), "nodes": rows})
    elif drawn.changes:
        show.node_table(rows, terminal)
    else:
        terminal.say(f"{drawn.spec.cluster}: no changes, {len(rows)} nodes are ready")


@app.command()
def ps(
    cluster: Annotated[str | None, typer.Argument(help="One cluster; else all.")] = None,
    as_json: Json = False,
) -> None:
    """List nodes: what the hypervisor says of each, what it last said itself, what it is promised."""
    from cluster import show

    terminal, site = Terminal(), _site()
    names = (
        [site.ledger.cluster(cluster).name] if cluster else [c.name for c in site.ledger.clusters()]
    )
    rows = show.nodes(site, names)
    if as_json:
        terminal.json(rows)
    else:
        show.node_table(rows, terminal)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ssh(context: typer.Context, node: Node) -> None:
    """Enter a node as root, or run a command there: phx ssh NODE -- CMD."""
    from builder.run import become
    from cluster.site import node_of

    site = _site()
    row, found = node_of(site, node)
    on = site.ledger.host(row.host)
    site.connect(on).close()  # says what to do when the host does not run
    folder = site.files(row.name)
    # Straight from inside the host's network: no relay in between.
    become([*on.enter(), "ssh", "-F", str(folder / "ssh_config"), "-o", "ProxyCommand=none",
            found.name, *context.args])  # fmt: skip


@app.command()
def console(node: Node) -> None:
    """Attach to a node's serial console; leave it with ^]."""
    from builder.run import become
    from cluster import domain
    from cluster.site import node_of

    site = _site()
    row, found = node_of(site, node)
    on = site.ledger.host(row.host)
    site.connect(on).close()
    become(["virsh", "-q", "-c", on.uri, "console", domain.name(row.name, found.name)])


@app.command()
def logs(
    node: Node,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many, from the end.")] = 200,
) -> None:
    """Show what a node's console said, and what its agent last reported."""
    from cluster.hosts import store
    from cluster.site import node_of

    terminal, site = Terminal(), _site()
    row, found = node_of(site, node)
    terminal.say(store.console_tail(site.ledger.host(row.host), row.name, found.name, lines))
    said = f": {found.message}" if found.message else ""
    terminal.say(
        f"-- last report: {found.stage} {found.uptime:.1f} s after its kernel started{said}"
    )


@app.command("down")
def down_(cluster: Annotated[str, typer.Argument(help="The cluster's name, or its file.")]) -> None:
    """Remove a cluster: domains, disks, devices, network, keys."""
    from cluster import launch, spec

    terminal, site = Terminal(), _site()
    if cluster.endswith((".yaml", ".yml")):
        cluster = spec.load(Path(cluster))[0].cluster
    launch.down(site, cluster, terminal.report)
    terminal.say(f"{cluster} is gone")


if __name__ == "__main__":
    main()
