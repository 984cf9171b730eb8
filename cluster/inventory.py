"""A cluster's nodes in the terms of other people's tools: Ansible's inventory, hosts(5), OpenSSH's configuration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.ledger import NodeRow

TAKEN = ("all", "ungrouped")
"""Groups that Ansible has in any case."""


def ansible(nodes: Sequence[NodeRow], config: Path) -> dict[str, Any]:
    """What a dynamic inventory answers to --list: a group for each role, and all variables of every host.

    config  the cluster's ssh_config; Ansible's ssh goes through it, so keys and ways in are those of `phx ssh`
    Source: docs.ansible.com, "Developing dynamic inventory", "Inventory script conventions".
    """
    groups: dict[str, Any] = {}
    for n in nodes:
        groups.setdefault(group(n.role), {"hosts": []})["hosts"].append(n.name)
    return {**groups, "_meta": {"hostvars": {n.name: host(n, config) for n in nodes}}}


def host(node: NodeRow, config: Path) -> dict[str, Any]:
    """One host's variables, as --host answers."""
    return {
        "ansible_user": "root",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(config))}",
        "ansible_python_interpreter": "/usr/bin/python3",
        "phx_cluster": node.cluster,
        "phx_role": node.role,
        "phx_address": node.address,
        "phx_stage": node.stage,
    }


def group(role: str) -> str:
    """The role as Ansible allows groups to be called: it takes no dashes.

    >>> group("slurm-head"), group("all")
    ('slurm_head', 'role_all')
    """
    return f"role_{role}" if role in TAKEN else role.replace("-", "_")


def script(cluster: str, phx: str, home: Path) -> str:
    """An inventory that Ansible runs: `ansible -i FILE`. It asks anew each time.

    phx  the program, absolute
    """
    return (
        "#!/bin/sh\n"
        f"# Ansible's inventory of the Philoxenia cluster {cluster}: ansible -i THIS_FILE all -m ping\n"
        f'PHX_HOME={shlex.quote(str(home))} exec {shlex.quote(phx)} inventory {cluster} "$@"\n'
    )


def hosts(nodes: Sequence[NodeRow]) -> str:
    """Lines for /etc/hosts: address, short name, full name, as the nodes have them themselves."""
    width = max((len(n.address) for n in nodes), default=0)
    return "".join(f"{n.address:<{width}} {n.name} {n.name}.{n.cluster}\n" for n in nodes)
