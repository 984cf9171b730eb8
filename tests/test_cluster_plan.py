"""A cluster's plan: what shall be, compared with what is there, gives the least to be done and never a secret."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cluster import domain
from cluster.actions import Adjust, Flag, Keep, Launch, Remove, Replace, Resume, boots, compare
from cluster.hosts.port import Seen
from cluster.network import tap
from contextualize.identity import Secret, operator_key
from tests.invented import CLUSTER, IMAGE, LAB, SECRET, drawn, launched


def doings(actions):
    return [(type(a).__name__, a.node if isinstance(a, Remove) else a.node.name) for a in actions]


def test_nothing_there_launches_all_in_the_order_of_the_file():
    assert doings(compare(drawn(), ())) == [
        ("Launch", "head-1"),
        ("Launch", "worker-1"),
        ("Launch", "worker-2"),
    ]


def test_what_was_launched_is_kept():
    plan = drawn()
    assert {type(a) for a in compare(plan, launched(plan))} == {Keep}
    assert {type(a) for a in compare(drawn(), launched(drawn()))} == {Keep}, (
        "drawn anew, it is the same plan"
    )


def test_the_order_in_which_they_are_seen_does_not_matter():
    seen = launched(drawn())
    bigger = drawn(CLUSTER.replace("count: 2", "count: 3"))
    assert compare(bigger, seen) == compare(bigger, tuple(reversed(seen)))


@pytest.mark.parametrize("state", ["off", "crashed", "paused"])
def test_a_node_that_does_not_run_is_started_and_keeps_its_disk(state):
    plan = drawn()
    head, first, second = launched(plan)
    actions = compare(plan, (head, replace(first, state=state), second))
    assert actions == (Keep(plan.nodes[0]), Resume(plan.nodes[1], state), Keep(plan.nodes[2]))


def test_another_end_of_a_crash_is_told_to_qemu_and_takes_xen_a_restart():
    plan = drawn(CLUSTER + "    crash: restart\n")
    assert compare(plan, launched(drawn()))[1:] == tuple(
        Flag(n, autostart=False, crash=True) for n in plan.nodes[1:]
    )
    nodes = tuple(replace(n, machine=replace(n.machine, virtualization="pv")) for n in plan.nodes)
    on_xen = replace(plan, nodes=nodes)
    seen = tuple(replace(s, crash="destroy") for s in launched(on_xen))
    (_, first, _) = compare(on_xen, seen)
    assert isinstance(first, Adjust) and first.keys == ()
    assert first.restart == "crash is destroy, and Xen's driver takes another one at a start only"
    # Another guarantee beside it, which could be told while it runs, makes it no other way.
    other = replace(first.node.machine.guarantee, cpu_guarantee=250)
    changed = tuple(replace(s, mark=replace(s.mark, guarantee=other)) for s in seen)
    (_, again, _) = compare(on_xen, changed)
    assert isinstance(again, Adjust) and again.keys and again.restart == first.restart
    off = tuple(replace(s, state="off") for s in seen)
    assert [a.restart for a in compare(on_xen, off)[1:]] == ["it is off"] * 2  # type: ignore[union-attr]


def test_a_node_is_pinned_while_it_runs_and_let_go_by_a_restart():
    pinned = drawn(CLUSTER.replace("limit: 2}", "limit: 2, pin: 0-1}"))
    there = launched(drawn())
    assert compare(pinned, there)[1:] == tuple(Flag(n, pin=True) for n in pinned.nodes[1:])
    assert {type(a) for a in compare(pinned, launched(pinned))} == {Keep}
    (_, first, _) = compare(drawn(), launched(pinned))
    assert isinstance(first, Adjust) and first.keys == ()
    assert first.restart == "it is pinned to CPUs 0-1, and let go at a start only"


def test_one_that_is_gone_is_launched():
    plan = drawn()
    assert doings(compare(plan, launched(plan)[:2])) == [
        ("Keep", "head-1"), ("Keep", "worker-1"), ("Launch", "worker-2"),
    ]  # fmt: skip


def test_fewer_nodes_removals_first():
    fewer = drawn(CLUSTER.replace("count: 2", "count: 1"))
    actions = compare(fewer, launched(drawn()))
    assert actions[0] == Remove("worker-2", "demo.worker-2")
    assert doings(actions)[1:] == [("Keep", "head-1"), ("Keep", "worker-1")], (
        "that their peers changed, they are told while they run"
    )


def test_another_clusters_nodes_are_not_ours():
    plan = drawn()
    others = tuple(Seen(s.name, replace(s.mark, cluster="demo-x"), s.state) for s in launched(plan))
    assert {type(a) for a in compare(plan, others)} == {Launch}


@pytest.mark.parametrize(
    ("why", "change", "said"),
    [
        ("the disk's size", {"text": CLUSTER.replace("memory: 512M", "memory: 512M\n    disk: 8G")},
         "disk.size changed"),
        ("the image", {"image": replace(IMAGE, id="9e" * 32)}, "its image or its machine changed"),
        ("kernel parameters", {"image": replace(IMAGE, cmdline="quiet")}, "its image or its machine changed"),
        ("the accelerator", {"host": replace(LAB, accelerator="kvm")}, "its image or its machine changed"),
        ("the hooks' limit", {"text": CLUSTER + "hook_limit: 2m\n"},
         "its identity changed (address, keys or token)"),
        ("the secret", {"secret": Secret(b"another")}, "its image or its machine changed"),
    ],
)  # fmt: skip
def test_what_would_be_another_machine_is_replaced_and_says_why(why, change, said):
    head = compare(drawn(**change), launched(drawn()))[0]
    assert isinstance(head, Replace) and head.why == said, why


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("who may enter", CLUSTER + 'authorized_keys: ["ssh-ed25519 AAAA me"]\n'),
        ("ssh_to", CLUSTER.replace("    ssh_to: [worker]\n", "")),
        ("data", CLUSTER + "data: {motd: hello}\n"),
    ],
)
def test_what_running_nodes_can_be_told_replaces_none(why, text):
    before, after = drawn(), drawn(text)
    assert {type(a) for a in compare(after, launched(before))} == {Keep}, why
    changed = [
        n for n in ("head-1", "worker-1") if after.documents.base(n) != before.documents.base(n)
    ]
    assert changed, "but they have something to learn"


def test_a_node_is_made_anew_when_it_is_asked_for():
    plan = drawn()
    actions = compare(plan, launched(plan), ["worker-2"])
    assert doings(actions) == [("Keep", "head-1"), ("Keep", "worker-1"), ("Replace", "worker-2")]
    assert actions[2].why == "as asked"


@pytest.mark.parametrize(
    ("why", "text", "keys", "restart"),
    [
        ("bandwidth", CLUSTER.replace("20Mbit", "30Mbit"), ("network.in.guarantee", "network.out.guarantee"), ""),
        ("less memory", CLUSTER.replace("512M", "256M"), ("memory.min", "memory.max"), ""),
        ("more than it booted with", CLUSTER.replace("512M", "768M"), ("memory.min", "memory.max"),
         "memory.max is 768M, it booted with 512M"),
        ("a limit that its CPUs can fill", CLUSTER.replace("0.5, limit: 1}", "0.25, limit: 0.75}"),
         ("cpu.guarantee", "cpu.limit"), ""),
        ("one that they cannot", CLUSTER.replace("limit: 1}", "limit: 3}"), ("cpu.limit",),
         "cpu.limit 3 takes 3 CPUs, it booted with 1"),
    ],
)  # fmt: skip
def test_another_guarantee_is_told_to_a_node_that_runs(why, text, keys, restart):
    head = compare(drawn(text), launched(drawn()))[0]
    assert isinstance(head, Adjust) and (head.keys, head.restart) == (keys, restart), why
    assert boots(head) is bool(restart)


def test_a_node_that_is_off_starts_with_its_new_guarantee():
    seen = tuple(replace(s, state="off") for s in launched(drawn()))
    head = compare(drawn(CLUSTER.replace("20Mbit", "30Mbit")), seen)[0]
    assert isinstance(head, Adjust) and head.restart == "it is off" and boots(head)


def test_only_the_nodes_that_change_are_told():
    changed = drawn(CLUSTER.replace("memory: 1G", "memory: 2G"))
    assert doings(compare(changed, launched(drawn()))) == [
        ("Keep", "head-1"), ("Adjust", "worker-1"), ("Adjust", "worker-2"),
    ]  # fmt: skip


def test_every_node_has_everything_of_its_own():
    nodes = drawn().nodes
    for what in ("disk", "seed", "channel", "log", "mac", "machine_id", "tap", "node"):
        assert len({getattr(n.machine, what) for n in nodes}) == len(nodes), what
    assert nodes[1].machine.tap == tap("demo", "worker-1")
    assert nodes[0].machine.accelerator == "qemu", "unless a probe has shown that kvm boots"


def test_every_seed_holds_every_peer():
    plan = drawn()
    for node in plan.nodes:
        told = json.loads(plan.seed(node.name)["philoxenia.json"])
        assert [p["name"] for p in told["context"]["peers"]] == ["head-1", "worker-1", "worker-2"]
        assert told["node"] == node.name


def test_only_an_image_with_cloud_init_and_no_agent_is_brought_one():
    for kind, brought in (("agent", False), ("cloud-init", True), ("none", False)):
        plan = drawn(image=replace(IMAGE, contextualization=kind))
        seed = plan.seed("worker-1", b"#!agent")
        assert (b"philoxenia-agent.service" in seed["user-data"]) == brought, kind
        assert plan.nodes == drawn().nodes, "no machine is another because of it"


def test_a_plan_shows_no_secret():
    plan = drawn()
    actions = compare(plan, ())
    shown = f"{plan!r} {plan} {actions!r} {plan.nodes[0]!r}"
    for node in plan.nodes:
        i = node.identity
        for secret in (i.token, i.host_key.private, i.user_key.private):
            assert secret.reveal().decode() not in shown
            assert repr(secret.reveal()) not in shown
        assert str(plan.seed(node.name)["philoxenia.json"])[2:60] not in shown
    assert "PRIVATE KEY" not in shown and repr(SECRET.reveal()) not in shown


def test_nor_does_the_xml():
    plan = drawn()
    for node in plan.nodes:
        text = domain.xml(node.machine, node.context)
        assert node.identity.token.reveal().decode() not in text
        assert "PRIVATE KEY" not in text


def test_the_operator_enters_every_node():
    public = operator_key(SECRET, "demo").public
    plan = drawn()
    for node in plan.nodes:
        told = json.loads(plan.seed(node.name)["philoxenia.json"])
        files = {f["path"]: f["text"] for f in told["context"]["files"]}
        assert files["/root/.ssh/authorized_keys"].startswith(f"{public} operator\n")
