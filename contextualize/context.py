"""The context of a cluster: every member's identity and place, and for one node the document that its seed carries.

Files are rendered here, never in the guest; the document says where each goes. The agent applies it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextualize.identity import Identity


@dataclass(frozen=True, slots=True)
class Member:
    """One node as its peers know it. `address` is plain; `prefix` is the network's length."""

    identity: Identity
    role: str
    address: str
    prefix: int

    @property
    def name(self) -> str:
        return self.identity.node


@dataclass(frozen=True, slots=True)
class Context:
    """A cluster's members in the order of their names, and who may enter where.

    ssh_to  role -> roles whose nodes its root may enter by SSH
    admit   public keys (OpenSSH lines) that enter every node, the operator's first
    """

    cluster: str
    members: tuple[Member, ...]
    ssh_to: tuple[tuple[str, tuple[str, ...]], ...]
    admit: tuple[str, ...]
    hook_limit: int = 300
    generation: int = field(default=1)


def hosts(context: Context) -> str:
    """/etc/hosts: each node by short and by full name."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{m.address} {m.name} {m.name}.{context.cluster}" for m in context.members]
    return "\n".join(lines) + "\n"


def known_hosts(context: Context) -> str:
    """Every node's host key under its names and address: no SSH between nodes ever asks."""
    lines = [
        f"{m.name},{m.name}.{context.cluster},{m.address} {m.identity.host_key.public}"
        for m in context.members
    ]
    return "\n".join(lines) + "\n"


def authorized_keys(context: Context, role: str) -> str:
    """Who may enter a node of `role`: the operator, and nodes of roles that name it in ssh_to."""
    goers = {goer for goer, roles in context.ssh_to if role in roles}
    keys = [*context.admit]
    keys += [
        f"{m.identity.user_key.public} root@{m.name}" for m in context.members if m.role in goers
    ]
    return "".join(f"{key}\n" for key in dict.fromkeys(keys))


def document(context: Context, node: str) -> dict[str, Any]:
    """What the agent of `node` reads: who it is, its network, its files, its peers. Holds secrets."""
    me = next(m for m in context.members if m.name == node)
    files = [
        ("/etc/hostname", f"{node}\n", "0644"),
        ("/etc/hosts", hosts(context), "0644"),
        ("/etc/ssh/ssh_known_hosts", known_hosts(context), "0644"),
        ("/etc/ssh/ssh_host_ed25519_key", me.identity.host_key.private.reveal().decode(), "0600"),
        ("/etc/ssh/ssh_host_ed25519_key.pub", f"{me.identity.host_key.public} {node}\n", "0644"),
        ("/root/.ssh/authorized_keys", authorized_keys(context, me.role), "0600"),
    ]
    if dict(context.ssh_to).get(me.role):
        files.append(
            ("/root/.ssh/id_ed25519", me.identity.user_key.private.reveal().decode(), "0600")
        )
    return {
        "version": 1,
        "cluster": context.cluster,
        "generation": context.generation,
        "node": node,
        "role": me.role,
        "machine_id": me.identity.machine_id,
        "token": me.identity.token.reveal().decode(),
        "hook_limit": context.hook_limit,
        "nics": [{"mac": me.identity.mac, "address": f"{me.address}/{me.prefix}"}],
        "peers": [{"name": m.name, "role": m.role, "address": m.address} for m in context.members],
        "files": [{"path": path, "text": text, "mode": mode} for path, text, mode in files],
    }


def ssh_config(nodes: Sequence[tuple[str, str]], folder: Path, enter: str) -> str:
    """An OpenSSH client configuration that reaches every (node, address) with verified keys and no questions.

    folder  where known_hosts and operator_key lie
    enter   the command that enters the nodes' network, or "" when it is ours
    """
    key, known = (_word(folder / name) for name in ("operator_key", "known_hosts"))
    lines = []
    for name, address in nodes:
        lines += [
            f"Host {name}", f"    HostName {address}", f"    HostKeyAlias {name}", "    User root",
            f"    IdentityFile {key}", "    IdentitiesOnly yes",
            f"    UserKnownHostsFile {known}", "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes", "    LogLevel ERROR", "    ConnectTimeout 30",
        ]  # fmt: skip
        if enter:
            # bash's /dev/tcp: a relay without a program that might not be there.
            relay = "exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3; kill $!"
            lines.append(f"    ProxyCommand {enter} bash -c '{relay}'")
    return "\n".join(lines) + "\n"


def _word(path: Path) -> str:
    """The path as ssh_config(5) reads it: % begins a token there, and blanks end a word outside of quotes."""
    text = str(path).replace("%", "%%")
    if not set(text) & set(" \t'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def cloud_init(context: Context, node: str) -> dict[str, str]:
    """The same identity in cloud-init's terms: NoCloud's meta-data, network-config (version 2) and user-data."""
    me = next(m for m in context.members if m.name == node)
    told = document(context, node)
    keep = [
        f
        for f in told["files"]
        if not f["path"].startswith(("/etc/hostname", "/etc/ssh/ssh_host_"))
    ]
    user = {
        "hostname": node,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": me.identity.host_key.private.reveal().decode(),
            "ed25519_public": f"{me.identity.host_key.public} {node}",
        },
        "write_files": [
            {
                "path": f["path"],
                "content": f["text"],
                "permissions": f["mode"],
                "owner": "root:root",
            }
            for f in keep
        ],
    }
    network = {
        "version": 2,
        "ethernets": {
            "private": {
                "match": {"macaddress": me.identity.mac},
                "addresses": [f"{me.address}/{me.prefix}"],
                "dhcp4": False,
            }
        },
    }
    # JSON is YAML, and is written the same way each time.
    meta = {"instance-id": f"{context.cluster}-{node}-{context.generation}", "local-hostname": node}
    return {
        "meta-data": json.dumps(meta, sort_keys=True) + "\n",
        "network-config": json.dumps(network, sort_keys=True) + "\n",
        "user-data": "#cloud-config\n" + json.dumps(user, sort_keys=True) + "\n",
    }


def seed_files(context: Context, node: str) -> dict[str, bytes]:
    """Every file of the node's seed disk, by name."""
    ours = json.dumps(document(context, node), sort_keys=True, indent=1) + "\n"
    texts: Sequence[tuple[str, str]] = [
        ("philoxenia.json", ours), *sorted(cloud_init(context, node).items())
    ]  # fmt: skip
    return {name: text.encode() for name, text in texts}
