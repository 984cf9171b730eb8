"""What a node is told of itself and its peers: the files of an invented cluster, and no other node's secret in them."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest

from contextualize import cloudinit
from contextualize import context as contexts
from contextualize import seed as seed_module
from contextualize.context import Context, Member
from contextualize.identity import derive, operator_key
from contextualize.render import Documents
from tests.invented import SECRET, masked


def member(node, address):
    return Member(derive(SECRET, "demo", node), node.rpartition("-")[0], address, 24)


CONTEXT = Context(
    cluster="demo",
    members=(
        member("head-1", "10.7.0.1"), member("worker-1", "10.7.0.2"), member("worker-2", "10.7.0.3"),
        member("store-1", "10.7.0.9"),
    ),
    ssh_to=(("head", ("worker", "store")), ("worker", ()), ("store", ("head",))),
    admit=(operator_key(SECRET, "demo").public + " operator", "ssh-ed25519 AAAA me@desk"),
    hook_limit=120,
)  # fmt: skip
NODES = [m.name for m in CONTEXT.members]


DOCUMENTS = Documents(CONTEXT)


def document(node):
    return DOCUMENTS.document(node)


def seed(node):
    return DOCUMENTS.seed(node, document(node))


def member_of(node):
    return next(m for m in CONTEXT.members if m.name == node)


def seed_files(node):
    return cloudinit.seed_files(CONTEXT.cluster, member_of(node), seed(node))


def files(node):
    return {f["path"]: f for f in document(node)["files"]}


@pytest.mark.parametrize("name", ["hosts", "known_hosts"])
def test_golden_names_and_keys(name, golden):
    golden(f"context/{name}", getattr(contexts, name)(CONTEXT.cluster, CONTEXT.members))


@pytest.mark.parametrize("role", ["head", "worker", "store"])
def test_golden_who_may_enter(role, golden):
    golden(f"context/authorized_keys.{role}", contexts.authorized_keys(CONTEXT, role))


def test_golden_document(golden):
    text = json.dumps(seed("head-1"), indent=1) + "\n"
    golden("context/document.json", masked(text))


def test_golden_ssh_config(golden):
    nodes = [(m.name, m.address) for m in CONTEXT.members[:2]]
    text = contexts.ssh_config(
        "demo",
        nodes,
        Path("/home/me/clusters/demo"),
        contexts.relay("nsenter --net=/run/netns/phx-lab"),
    )
    golden("context/ssh_config", text)
    assert "ProxyCommand" not in contexts.ssh_config("demo", nodes, Path("/x"), "")


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("/home/me/my clusters/50% done", '"/home/me/my clusters/50%% done/operator_key"'),
        ("/home/o'neil", '"/home/o\'neil/operator_key"'),
        ('/home/"me"', '"/home/\\"me\\"/operator_key"'),
        ("/home/a%h", "/home/a%%h/operator_key"),
    ],
)
def test_a_folder_of_any_name_in_ssh_config(folder, word):
    text = contexts.ssh_config("demo", [("n-1", "10.7.0.1")], Path(folder), "")
    assert f"    IdentityFile {word}\n" in text
    assert f"    UserKnownHostsFile {word.replace('operator_key', 'known_hosts')}\n" in text


def test_ssh_to_is_all_who_enter_besides_the_admitted():
    def goers(role):
        lines = contexts.authorized_keys(CONTEXT, role).splitlines()
        assert lines[:2] == list(CONTEXT.admit), "the operator first"
        return [line.split()[-1] for line in lines[2:]]

    assert goers("head") == ["root@store-1"]
    assert goers("worker") == goers("store") == ["root@head-1"]


def test_a_key_that_is_admitted_twice_is_written_once():
    twice = Context("demo", CONTEXT.members, (), ("ssh-ed25519 AAAA a", "ssh-ed25519 AAAA a"))
    assert contexts.authorized_keys(twice, "head") == "ssh-ed25519 AAAA a\n"


def test_only_who_may_go_anywhere_has_a_key_to_go_with():
    for node in NODES:
        assert ("/root/.ssh/id_ed25519" in files(node)) == (not node.startswith("worker"))


def test_keys_are_for_root_alone():
    for node in NODES:
        for path, file in files(node).items():
            private = "PRIVATE KEY" in file["text"] or path.endswith("authorized_keys")
            assert file["mode"] == ("0600" if private else "0644"), path


def secrets_of(m):
    """Lines that would give a node away."""
    keys = (m.identity.host_key.private, m.identity.user_key.private)
    return [
        m.identity.token.reveal().decode(),
        *(k.reveal().decode().splitlines()[3] for k in keys),
    ]


@pytest.mark.parametrize("node", NODES)
def test_no_other_nodes_secret_is_in_a_seed(node):
    seed = b"".join(seed_files(node).values()).decode()
    mine = next(m for m in CONTEXT.members if m.name == node)
    assert secrets_of(mine)[0] in seed and secrets_of(mine)[1] in seed
    for other in CONTEXT.members:
        if other is not mine:
            for secret in secrets_of(other):
                assert secret not in seed, f"{other.name}'s"
    assert operator_key(SECRET, "demo").private.reveal().decode().splitlines()[3] not in seed
    assert SECRET.reveal().decode() not in seed and SECRET.reveal().hex() not in seed


def test_the_document_says_who_and_where():
    told = seed("worker-2")
    assert (told["cluster"], told["node"], told["role"], told["hook_limit"]) == (
        "demo",
        "worker-2",
        "worker",
        120,
    )
    assert told["nics"] == [{"mac": CONTEXT.members[2].identity.mac, "address": "10.7.0.3/24"}]
    assert [p["name"] for p in told["context"]["peers"]] == NODES


def test_cloud_init_says_the_same(golden):
    told = cloudinit.cloud_init("demo", member_of("head-1"), document("head-1"))
    golden(
        "context/cloud-init.txt",
        masked("".join(f"== {name}\n{told[name]}" for name in sorted(told))),
    )
    assert set(told) == {"meta-data", "network-config", "user-data"}
    user = json.loads(told["user-data"].removeprefix("#cloud-config\n"))
    ours = files("head-1")
    assert user["ssh_keys"]["ed25519_private"] == ours["/etc/ssh/ssh_host_ed25519_key"]["text"]
    written = {f["path"]: f["content"] for f in user["write_files"]}
    assert written["/etc/hosts"] == ours["/etc/hosts"]["text"]
    assert "/etc/ssh/ssh_host_ed25519_key" not in written, "cloud-init places the host key itself"


def test_cloud_init_brings_the_agent_where_there_is_none():
    source = (Path(cloudinit.__file__).parent / "agent.py").read_bytes()
    assert seed_module.agent() == source
    told = cloudinit.cloud_init("demo", member_of("head-1"), document("head-1"), source)
    user = json.loads(told["user-data"].removeprefix("#cloud-config\n"))
    written = {f["path"]: f for f in user["write_files"]}
    agent = written["/usr/lib/philoxenia/agent.py"]
    assert gzip.decompress(base64.b64decode(agent["content"])) == source
    assert (agent["encoding"], agent["permissions"]) == ("gz+b64", "0755")
    unit = written["/etc/systemd/system/philoxenia-agent.service"]["content"]
    assert "ExecStart=/usr/bin/python3 -I -S -B /usr/lib/philoxenia/agent.py\n" in unit
    assert user["runcmd"] == [
        ["systemctl", "enable", "philoxenia-agent.service"],
        ["sync"],
        ["systemctl", "start", "--no-block", "philoxenia-agent.service"],
    ]
    assert told == cloudinit.cloud_init("demo", member_of("head-1"), document("head-1"), source)


def test_cloud_init_writes_no_file_of_an_owner_that_may_not_be_there():
    told = document("head-1")
    mine = {"path": "/etc/farm/key", "text": "k", "mode": "0400", "owner": "farm:farm"}
    told["files"] = [*told["files"], mine]
    user = cloudinit.cloud_init("demo", member_of("head-1"), told)["user-data"]
    assert "/etc/hosts" in user and "/etc/farm/key" not in user


def test_a_seed_is_the_same_each_time():
    assert seed_files("head-1") == seed_files("head-1")
    assert set(seed_files("head-1")) == {
        "philoxenia.json", "meta-data", "network-config", "user-data",
    }  # fmt: skip
