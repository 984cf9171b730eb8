"""The context of a cluster: every member's identity and place, what its roles declare, and the files that follow.

Files are rendered on our side, never in the guest; a document says where each goes (contextualize/render.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextualize.declared import Declared
from contextualize.identity import Identity


@dataclass(frozen=True, slots=True)
class Member:
    """One node as its peers know it.

    address  plain; `prefix` is the network's length
    cpus     whole virtual CPUs; `memory` in MiB
    """

    identity: Identity
    role: str
    address: str
    prefix: int
    cpus: int = 1
    memory: int = 0

    @property
    def name(self) -> str:
        return self.identity.node


@dataclass(frozen=True, slots=True)
class Context:
    """A cluster's members in the order of their names, who may enter where, and what its roles declare.

    ssh_to      role -> roles whose nodes its root may enter by SSH
    admit       public keys (OpenSSH lines) that enter every node, the operator's first
    declared    role -> what it provides, requires and completes; a role that is absent says nothing
    data        the cluster file's own data, by name
    parameters  role -> the parameters that its image was built with
    https       role -> address, port and pin of the broker; a role that is absent uses virtio-serial
    bring       roles whose images have cloud-init and not our agent: their seeds bring it
    generation  counts the changes of all this
    """

    cluster: str
    members: tuple[Member, ...]
    ssh_to: tuple[tuple[str, tuple[str, ...]], ...]
    admit: tuple[str, ...]
    hook_limit: int = 300
    generation: int = 1
    declared: Mapping[str, Declared] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    https: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bring: frozenset[str] = frozenset()


def fingerprint(context: Context) -> str:
    """Digest of the whole but its generation: another means that some node may have something new to learn."""
    told = [
        [[m.name, m.role, m.address, m.prefix, m.cpus, m.memory] for m in context.members],
        context.ssh_to, context.admit, context.hook_limit, repr(sorted(context.declared.items())),
        dict(context.data), {role: dict(p) for role, p in context.parameters.items()},
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def hosts(cluster: str, members: Iterable[Member]) -> str:
    """/etc/hosts: each node by short and by full name."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{m.address} {m.name} {m.name}.{cluster}" for m in members]
    return "\n".join(lines) + "\n"


def known_hosts(cluster: str, members: Iterable[Member]) -> str:
    """Every node's host key under its names and address: no SSH between nodes ever asks."""
    lines = [
        f"{m.name},{m.name}.{cluster},{m.address} {m.identity.host_key.public}" for m in members
    ]
    return "".join(f"{line}\n" for line in lines)


def authorized_keys(context: Context, role: str) -> str:
    """Who may enter a node of `role`: the operator, and nodes of roles that name it in ssh_to."""
    goers = {goer for goer, roles in context.ssh_to if role in roles}
    keys = [*context.admit]
    keys += [
        f"{m.identity.user_key.public} root@{m.name}" for m in context.members if m.role in goers
    ]
    return "".join(f"{key}\n" for key in dict.fromkeys(keys))


def ssh_config(cluster: str, nodes: Sequence[tuple[str, str]], folder: Path, proxy: str) -> str:
    """An OpenSSH client configuration that reaches every (node, address) with verified keys and no questions, by short
    name and by full name.

    folder  where known_hosts and operator_key lie
    proxy   the ProxyCommand that reaches the nodes, or "" when their network is ours
    """
    key, known = (word(folder / name) for name in ("operator_key", "known_hosts"))
    lines = []
    for name, address in nodes:
        lines += [
            f"Host {name} {name}.{cluster}", f"    HostName {address}", f"    HostKeyAlias {name}", "    User root",
            f"    IdentityFile {key}", "    IdentitiesOnly yes",
            f"    UserKnownHostsFile {known}", "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes", "    LogLevel ERROR", "    ConnectTimeout 30",
        ]  # fmt: skip
        if proxy:
            lines.append(f"    ProxyCommand {proxy}")
    return "\n".join(lines) + "\n"


def relay(enter: str) -> str:
    """The command by which ssh (which fills in %h and %p) reaches a node of another network.

    Through bash's /dev/tcp: no program that might not be there.
    """
    return f"{enter} bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3; kill $!'"


def word(path: Path) -> str:
    """The path as ssh_config(5) reads it: % begins a token there, and blanks end a word outside of quotes."""
    text = str(path).replace("%", "%%")
    if not set(text) & set(" \t'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
