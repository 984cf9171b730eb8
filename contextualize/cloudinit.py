"""The same identity in cloud-init's terms, and all files of a seed disk.

NoCloud's meta-data, network-config (version 2) and user-data, as JSON, which is YAML and is written the same way each
time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from contextualize.context import Member


def cloud_init(cluster: str, me: Member, document: Mapping[str, Any]) -> dict[str, str]:
    """meta-data, network-config and user-data of one node, by name. The user-data holds its private host key."""
    written = [
        {"path": f["path"], "permissions": f["mode"], "owner": _owner(f["owner"])}
        | ({"content": f["text"]} if "text" in f else {"content": f["data"], "encoding": "b64"})
        for f in document["files"]
        if not f["path"].startswith(("/etc/hostname", "/etc/ssh/ssh_host_"))
    ]
    user = {
        "hostname": me.name,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": me.identity.host_key.private.reveal().decode(),
            "ed25519_public": f"{me.identity.host_key.public} {me.name}",
        },
        "write_files": written,
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
    meta = {
        "instance-id": f"{cluster}-{me.name}-{me.identity.machine_id}",
        "local-hostname": me.name,
    }
    return {
        "meta-data": json.dumps(meta, sort_keys=True) + "\n",
        "network-config": json.dumps(network, sort_keys=True) + "\n",
        "user-data": "#cloud-config\n" + json.dumps(user, sort_keys=True) + "\n",
    }


def _owner(owner: str) -> str:
    return owner if ":" in owner else f"{owner}:{owner}"


def seed_files(cluster: str, me: Member, seed: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of the node's seed disk, by name.

    seed  what our agent reads (`Documents.seed`)
    """
    ours = json.dumps(seed, sort_keys=True, indent=1) + "\n"
    texts = {"philoxenia.json": ours, **cloud_init(cluster, me, seed["context"])}
    return {name: text.encode() for name, text in texts.items()}
