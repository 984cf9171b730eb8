"""The context of a node in which nobody would apply it: what is written where, and what such a role cannot ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from builder.document import parse
from builder.images.inside.interior import FakeInterior
from cluster import offline as nodes
from cluster.hosts.local import Here
from contextualize import offline
from contextualize.declared import Declared, Provide, Require
from tests.invented import CLUSTER, IMAGE, LAB, SECRET, drawn, masked

PLAN = drawn()
NODE = PLAN.nodes[0]
SEED = PLAN.documents.seed(NODE.name, PLAN.documents.document(NODE.name))
BARE = replace(IMAGE, contextualization="none", network="networkd")


def inside(network, **more):
    """A disk's inside after the node's changes were made to it, twice."""
    fake = FakeInterior(files={
        "/etc/ssh/ssh_host_rsa_key": (b"everybody's", 0o600), "/etc/ssh/sshd_config": (b"", 0o644),
        "/etc/machine-id": (b"baked in\n", 0o444), **more,
    })  # fmt: skip
    for _ in range(2):
        nodes.apply(offline.changes(SEED, network), fake)
    return fake


def test_the_node_knows_itself_its_peers_and_who_may_enter(golden):
    found = inside("networkd")
    told = "".join(
        f"--- {path} {mode:04o}\n" + (f"-> {data}\n" if isinstance(data, str) else data.decode())
        for path, (data, mode) in sorted(found.files.items())
    )
    golden("context/offline.txt", masked(told))
    assert "/etc/ssh/ssh_host_rsa_key" not in found.files, "a key that other nodes have too"
    assert found.files["/etc/machine-id"][0].decode() == f"{NODE.machine.machine_id}\n"


def test_networkd_takes_the_card_by_its_address():
    found = inside("networkd", **{"/etc/systemd/network/20-dhcp.network": (b"", 0o644)})
    first, *_ = sorted(n for n in found.files if n.startswith("/etc/systemd/network/"))
    text = found.files[first][0].decode()
    assert f"MACAddress={NODE.machine.mac}" in text and f"Address={NODE.address}/24" in text


def test_netplan_has_no_other_word_on_it():
    found = inside("netplan", **{"/etc/netplan/50-cloud-init.yaml": (b"dhcp", 0o600)})
    [path] = [n for n in found.files if n.startswith("/etc/netplan/")]
    card = json.loads(found.files[path][0])["network"]["ethernets"]["private0"]
    assert card == {
        "match": {"macaddress": NODE.machine.mac},
        "dhcp4": False,
        "addresses": [f"{NODE.address}/24"],
    }


def test_ifupdown_takes_the_first_card():
    lines = inside("ifupdown").files["/etc/network/interfaces"][0].decode().splitlines()
    assert lines == [
        "auto lo", "iface lo inet loopback", "auto eth0", "iface eth0 inet static",
        f"    address {NODE.address}/24",
    ]  # fmt: skip


def test_files_of_a_role_come_with_their_owners():
    entry = {"path": "/srv/app", "mode": "0640", "owner": "www-data:adm", "data": "AP8="}
    seed = {**SEED, "context": {"files": [entry]}}
    fake = FakeInterior()
    nodes.apply(offline.changes(seed, "networkd"), fake)
    assert fake.files["/srv/app"] == (b"\x00\xff", 0o640)
    assert fake.owners == {"/srv/app": "www-data:adm"}


def flaws(image, declared):
    document = parse(CLUSTER, "demo.yaml")
    return [str(p) for p in nodes.flaws({"head": image}, {"head": declared}, document)]


def test_what_nobody_could_do_is_refused():
    whose = (
        "demo.yaml:4: roles.head: image worker has neither our agent nor cloud-init, so the role"
    )
    assert flaws(BARE, Declared()) == []
    for says in (
        Declared(requires=(Require("fact"),)),
        Declared(provides=(Provide("fact", "file"),)),
    ):
        assert flaws(BARE, says) == [f"{whose} can neither require nor provide anything"]
        assert flaws(IMAGE, says) == []
    [unknown] = flaws(replace(BARE, network=""), Declared())
    assert "its network is configured by something unknown" in unknown


def test_only_nodes_in_which_nobody_applies_it_are_written():
    """Opening the disk of another would fail: there is none."""
    nodes.inscriber(PLAN, {"head": IMAGE, "worker": IMAGE}, LAB.folder, print)(NODE, Path("/none"))


def answer(monkeypatch, text):
    reach = Here(LAB)
    monkeypatch.setattr(reach, "run", lambda *_, **__: text)
    return nodes.answering(reach, {"a-1": "10.7.0.1", "a-2": "10.7.0.2"})


def test_who_answers_is_read_from_ssh_keyscan(monkeypatch):
    said = "# 10.7.0.2:22 SSH-2.0\n10.7.0.2 ssh-ed25519 AAAA\nodd\n10.9.9.9 ssh-ed25519 BBBB\n"
    assert answer(monkeypatch, said) == {"a-2": "ssh-ed25519 AAAA"}
    assert answer(monkeypatch, "") == {}


def test_an_answer_is_told_once_until_the_machine_is_another(monkeypatch):
    monkeypatch.setattr(nodes, "PAUSE", 0.001)
    monkeypatch.setattr(nodes, "answering", lambda host, those: dict.fromkeys(those, "key"))
    with nodes.Outside(LAB, {"a-1": ("10.7.0.1", "key")}, lambda node: f"digest of {node}") as seen:
        for _ in range(2):
            found = []
            while not found:
                found = seen.heard()
            assert [(r.stage, r.context) for r in found] == [
                ("booted", ""),
                ("healthy", "digest of a-1"),
            ]
            assert seen.heard() == []
            seen.forget("a-1")
    assert nodes.reports("a-1", "key", "other", "d", 1.0)[0].stage == "failed"


def test_the_clusters_secret_is_in_no_file():
    assert SECRET.reveal() not in b"".join(f.data for f in offline.changes(SEED, "networkd").files)
