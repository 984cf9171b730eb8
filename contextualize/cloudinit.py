"""The same identity in cloud-init's terms, and all files of a seed disk.

NoCloud's meta-data, network-config (version 2) and user-data, as JSON, which is YAML and is written the same way each
time. An image that has cloud-init and not our agent gets the agent here, with a unit: cloud-init makes the node who it
is (name, addresses, keys), the agent does what comes later (facts, files, hooks), then and at each further boot.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

from contextualize.context import Member

AGENT = "/usr/lib/philoxenia/agent.py"
UNIT = "philoxenia-agent.service"
# A unit like any other: cloud-init has set name, network and keys before it starts, at every boot.
_UNIT = f"""\
[Unit]
Description=Philoxenia context agent
After=cloud-init.service network.target
[Service]
Type=notify
ExecStart=/usr/bin/python3 -I -S -B {AGENT}
StandardError=journal+console
TimeoutStartSec=180
KillMode=process
Restart=on-failure
RestartSec=2
[Install]
WantedBy=multi-user.target
"""


def cloud_init(
    cluster: str, me: Member, document: Mapping[str, Any], agent: bytes | None = None
) -> dict[str, str]:
    """meta-data, network-config and user-data of one node, by name. The user-data holds its private host key.

    agent  our agent's source, for an image that has none
    """
    written = [
        {"path": f["path"], "permissions": f["mode"], "owner": "root:root"}
        | ({"content": f["text"]} if "text" in f else {"content": f["data"], "encoding": "b64"})
        for f in document["files"]
        if not f["path"].startswith(("/etc/hostname", "/etc/ssh/ssh_host_"))
        # Another owner may not be there yet, and then cloud-init would write no file at all.
        and f["owner"].removesuffix(":root") == "root"
    ]
    user: dict[str, Any] = {
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
    if agent is not None:
        packed = base64.b64encode(gzip.compress(agent, mtime=0)).decode()
        written += [
            {"path": AGENT, "permissions": "0755", "owner": "root:root", "content": packed,
             "encoding": "gz+b64"},
            {"path": f"/etc/systemd/system/{UNIT}", "permissions": "0644", "owner": "root:root",
             "content": _UNIT},
        ]  # fmt: skip
        # It waits for others' facts: cloud-init is not to wait for it. cloud-init writes once, so what it wrote is on
        # the disk before the node can be ready: else a power cut soon after leaves empty files for good.
        user["runcmd"] = [
            ["systemctl", "enable", UNIT],
            ["sync"],
            ["systemctl", "start", "--no-block", UNIT],
        ]
    network = {
        "version": 2,
        "ethernets": {
            "private": {
                "match": {"macaddress": me.identity.mac},
                "addresses": [f"{me.address}/{me.prefix}"],
                "dhcp4": False,
                # Nobody announces routes on a private network; networkd would wait 12 s for one before it is online.
                "accept-ra": False,
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


def seed_files(
    cluster: str, me: Member, seed: Mapping[str, Any], agent: bytes | None = None
) -> dict[str, bytes]:
    """Every file of the node's seed disk, by name.

    seed   what our agent reads (`Documents.seed`)
    agent  our agent's source, for an image that has cloud-init and no agent
    """
    ours = json.dumps(seed, sort_keys=True, indent=1) + "\n"
    texts = {"philoxenia.json": ours, **cloud_init(cluster, me, seed["context"], agent)}
    return {name: text.encode() for name, text in texts.items()}
