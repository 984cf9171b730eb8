"""`phx`, the front door: hosts and clusters here, images from the builder. The only place that prints and exits.

Imports are inside the commands: `phx --help` answers before pydantic, SQLAlchemy or libvirt are read.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from builder import cli as builder_cli
from builder import grammar
from builder.cli import Json
from builder.images.cli import image
from builder.terminal import Terminal, home
from cluster import membership, rest, testing, tools
from cluster.contract import cli as contracts
from cluster.hosts.cli import here, host
from cluster.metering import cli as metering
from cluster.verify.cli import verify

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Philoxenia: recipes become appliance images, images become clusters that know themselves.",
)  # fmt: skip
app.command("build", cls=grammar.BuildCommand)(builder_cli.build)
app.command("lock", cls=grammar.LockCommand)(builder_cli.lock)
app.command("test")(testing.test)
app.command("scale")(membership.scale)
app.command("replace")(membership.replace)
app.command("recontext")(membership.recontext)
app.command("events")(membership.events)
app.command("verify")(verify)
app.command("pause")(rest.pause)
app.command("suspend")(rest.suspend)
app.command("resume")(rest.resume)
tools.register(app)
contracts.register(app)
metering.register(app)
app.add_typer(image, name="image")
app.add_typer(host, name="host")

PANELS = {
    "Images": ("build", "lock", "test", "image"),
    "Clusters": (
        "plan",
        "up",
        "ps",
        "scale",
        "replace",
        "recontext",
        "pause",
        "suspend",
        "resume",
        "down",
    ),
    "Nodes": ("ssh", "console", "logs", "events"),
    "Guarantees": ("set", "scheduled", "tick", "guarantees", "verify", "top", "usage", "metrics"),
    "Hosts": ("host", "doctor"),
    "For other programs": ("ssh-config", "inventory", "hosts", "graph", "schema"),
}
"""Where `phx --help` shows each command, in this order."""

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


@app.command("plan")
def plan_(file: Cluster, on: OnHost = None, as_json: Json = False) -> None:
    """Show what `phx up` would do, and change nothing."""
    from cluster import show, spec
    from cluster.draft import draft

    terminal, site = Terminal(), here()
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
    restart: Annotated[
        bool, typer.Option("--restart", help="Let nodes boot again where their guarantees need it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Launch a cluster, or bring it to what its file says; ends when every node is ready."""
    from cluster import launch, show

    terminal, site = Terminal(), here(starts=True)
    drawn = launch.up(site, file, on, replace, terminal.report, restart)
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

    terminal, site = Terminal(), here()
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

    site = here()
    row, found = node_of(site, node)
    on = site.ledger.host(row.host)
    site.connect(on).close()  # says what to do when the host does not run
    folder = site.files(row.name)
    # Straight from inside the host's network where that is on this machine: no relay in between.
    straight = [] if on.ssh else ["-o", "ProxyCommand=none"]
    become(
        [*on.enter(), "ssh", "-F", str(folder / "ssh_config"), *straight, found.name, *context.args]
    )


@app.command()
def console(node: Node) -> None:
    """Attach to a node's serial console; leave it with ^]."""
    from builder.run import become
    from cluster import domain
    from cluster.site import node_of

    site = here()
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

    terminal, site = Terminal(), here()
    row, found = node_of(site, node)
    reach = site.reach(site.ledger.host(row.host))
    try:
        terminal.say(store.console_tail(reach, row.name, found.name, lines))
    finally:
        reach.close()
    said = f": {found.message}" if found.message else ""
    terminal.say(
        f"-- last report: {found.stage} {found.uptime:.1f} s after its kernel started{said}"
    )


@app.command("down")
def down_(cluster: Annotated[str, typer.Argument(help="The cluster's name, or its file.")]) -> None:
    """Remove a cluster: domains, disks, devices, network, keys."""
    from cluster import launch, spec

    terminal, site = Terminal(), here()
    if cluster.endswith((".yaml", ".yml")):
        cluster = spec.load(Path(cluster))[0].cluster
    launch.down(site, cluster, terminal.report)
    terminal.say(f"{cluster} is gone")


def _arrange() -> None:
    """Put every command into its panel. KeyError for one that has none, at the first `phx` of whoever adds it."""
    place = {name: panel for panel, names in PANELS.items() for name in names}
    order = [*place]
    for command in app.registered_commands:
        name = command.name = command.name or str(getattr(command.callback, "__name__", ""))
        command.rich_help_panel = place[name]
    for group in app.registered_groups:
        group.rich_help_panel = place[group.name or ""]
    app.registered_commands.sort(key=lambda command: order.index(command.name or ""))


_arrange()


if __name__ == "__main__":
    main()
