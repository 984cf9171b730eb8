"""`phx ssh-config`, `phx inventory`, `phx hosts`, `phx graph`: a cluster as other people's tools want to read it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.cli import Json
from builder.terminal import Terminal, home
from cluster.hosts.cli import here

if TYPE_CHECKING:
    pass

Cluster = Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")]
Write = Annotated[
    Path | None, typer.Option("--write", metavar="FILE", help="Write it to FILE instead.")
]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("ssh-config")(ssh_config)
    app.command("inventory")(inventory)
    app.command("hosts")(hosts)
    app.command("graph")(graph)


def ssh_config(cluster: Cluster, write: Write = None, as_json: Json = False) -> None:
    """Print OpenSSH's configuration for a cluster: every node by name, with verified keys."""
    from contextualize import context

    terminal, site = Terminal(), here()
    row, nodes, folder = (
        site.ledger.cluster(cluster),
        site.ledger.nodes(cluster),
        site.files(cluster),
    )
    proxy = site.ledger.host(row.host).proxy()
    if as_json:
        terminal.json(
            [
                {"host": n.name, "names": [n.name, f"{n.name}.{cluster}"], "address": n.address, "user": "root",
                 "identity_file": str(folder / "operator_key"), "known_hosts": str(folder / "known_hosts"),
                 "proxy_command": proxy or None}
                for n in nodes
            ]
        )  # fmt: skip
        return
    text = context.ssh_config(cluster, [(n.name, n.address) for n in nodes], folder, proxy)
    if write is None:
        terminal.say(text.rstrip("\n"))
    else:
        _put(write, text, 0o600)
        terminal.say(f"{write} is written: ssh -F {write} {nodes[0].name}")


def inventory(
    cluster: Cluster,
    _list: Annotated[bool, typer.Option("--list", help="As Ansible asks; the default.")] = False,
    host: Annotated[
        str | None, typer.Option(metavar="NODE", help="One node's variables, as Ansible asks.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write a script that Ansible takes with -i."),
    ] = None,
) -> None:
    """Print Ansible's dynamic inventory of a cluster: a group for each role, the variables of every node."""
    from builder.errors import InputError, Problem, close
    from cluster import inventory as terms

    terminal, site = Terminal(), here()
    site.ledger.cluster(cluster)
    nodes = site.ledger.nodes(cluster)
    config = site.files(cluster) / "ssh_config"
    if write is not None:
        _put(write, terms.script(cluster, str(Path(sys.argv[0]).absolute()), home()), 0o755)
        terminal.say(f"{write} is written: ansible -i {write} all -m ping")
    elif host is None:
        terminal.json(terms.ansible(nodes, config))
    else:
        found = {n.name: n for n in nodes}
        if host not in found:
            raise InputError(Problem("", f"no node '{host}' in {cluster}", close(host, found)))
        terminal.json(terms.host(found[host], config))


def hosts(cluster: Cluster, as_json: Json = False) -> None:
    """Print a line of /etc/hosts for each node: address, short name, full name."""
    from cluster import inventory as terms

    terminal, site = Terminal(), here()
    site.ledger.cluster(cluster)
    nodes = site.ledger.nodes(cluster)
    if as_json:
        terminal.json(
            [{"address": n.address, "names": [n.name, f"{n.name}.{cluster}"]} for n in nodes]
        )
    else:
        terminal.say(terms.hosts(nodes).rstrip("\n"))


class Form(StrEnum):
    """How graphs are written."""

    mermaid = "mermaid"
    dot = "dot"
    table = "table"


def graph(
    cluster: Annotated[
        str,
        typer.Argument(metavar="CLUSTER|CLUSTER.yaml", help="A running cluster's name, or a file."),
    ],
    form: Annotated[
        Form, typer.Option("--format", help="mermaid, dot for Graphviz, or table to read here.")
    ] = Form.mermaid,
    as_json: Json = False,
) -> None:
    """Draw what the roles of a cluster wait for; of a running one, what is reached and what is missing."""
    from cluster import draft, launch, spec
    from cluster import graph as graphs

    terminal, site = Terminal(), here()
    is_file = cluster.endswith((".yaml", ".yml"))
    parsed, document = spec.load(Path(cluster)) if is_file else launch.kept(site, cluster)
    declared = draft.declared(site, parsed, document)
    counts = {name: role.count for name, role in parsed.roles.items()}
    nodes = None if is_file else site.ledger.nodes(cluster)
    drawn = graphs.graph(parsed.cluster, declared, counts, nodes)
    if as_json:
        terminal.json(graphs.data(drawn))
    elif form is Form.table:
        terminal.table(("ROLE", "REACHES", "WAITS FOR", "NODES", "MISSING"), graphs.rows(drawn))
    else:
        write = graphs.mermaid if form is Form.mermaid else graphs.dot
        terminal.say(write(drawn).rstrip("\n"))


def _put(path: Path, text: str, mode: int) -> None:
    """The file appears whole, with its mode. InputError where it cannot be."""
    from builder.errors import InputError, Problem

    aside = path.with_name(f"{path.name}.new")
    try:
        aside.unlink(missing_ok=True)
        aside.touch(mode)
        aside.write_text(text)
        aside.chmod(mode)
        aside.replace(path)
    except OSError as cause:
        raise InputError(Problem("--write", f"{path}: {cause.strerror}")) from None
