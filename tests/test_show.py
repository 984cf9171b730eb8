"""Plans as people and programs read them: the text of the demo's plan, and no secret in any of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import cluster
from builder.errors import InputError, NoRoom, explain
from builder.terminal import Terminal
from cluster import launch, show, spec
from cluster.actions import Keep, Remove, Replace, Resume
from cluster.draft import draft as draft_of
from cluster.ledger import ClusterRow, NodeRow
from cluster.site import Site
from tests.invented import CLUSTER, IMAGE, LAB, SECRET, drawn

DEMO = Path(cluster.__file__).parent / "examples" / "demo.yaml"


@pytest.fixture
def site(tmp_path):
    """A home with one image, and one host that does not run."""
    found = Site(tmp_path)

    def make(folder):
        (folder / "manifest.json").write_text(IMAGE.to_json())
        return IMAGE

    found.catalog.add(make)
    found.ledger.put_host(LAB)
    yield found
    found.ledger.close()


def draft(site, path, text=None):
    if text is not None:
        path.write_text(text)
    parsed, document = spec.load(path)
    return draft_of(site, parsed, document, None)


def test_the_demos_plan(site, golden, capsys):
    show.plan(draft(site, DEMO), Terminal())
    said = capsys.readouterr()
    golden("plan-demo.txt", said.out)
    assert said.err == ""


@pytest.mark.parametrize(
    ("why", "named", "known", "owner"),
    [
        ("who launches it", "", "", "ann"),
        ("who the file names", "owner: vo1\n", "", "vo1"),
        ("who launched it first, whoever goes on", "", "bob", "bob"),
        ("who the file names by now", "owner: vo1\n", "bob", "vo1"),
    ],
)
def test_a_cluster_has_an_owner(why, named, known, owner, site, tmp_path):
    site.user = "ann"
    path = tmp_path / "c.yaml"
    if known:
        row = ClusterRow("demo", "lab", "10.7.0.0/24", CLUSTER, SECRET, "then", owner=known)
        site.ledger.open_cluster(row, [])
    assert draft(site, path, named + CLUSTER).row.owner == owner, why


def test_a_plan_for_programs_holds_no_secret(site):
    found = draft(site, DEMO)
    text = json.dumps(show.plan_data(found), default=str)
    assert json.loads(text)["changes"] == len(found.plan.nodes)
    assert "PRIVATE" not in text and "token" not in text and "secret" not in text
    for node in found.plan.nodes:
        i = node.identity
        for secret in (
            i.token.reveal(),
            i.host_key.private.reveal().splitlines()[1],
            found.row.secret.reveal(),
        ):
            assert secret.decode("latin1") not in text and secret.hex() not in text


def test_a_plan_changes_nothing(site, tmp_path):
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    draft(site, DEMO)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
    assert site.ledger.clusters() == []


def test_every_action_is_told_with_its_reason():
    node = drawn().nodes[0]
    assert show.verb(Resume(node, "crashed")) == (
        "head-1",
        "start",
        "it is crashed; its disk stays",
    )
    assert show.verb(Replace(node, "memory changed")) == (
        "head-1",
        "REPLACE",
        "memory changed; its disk goes",
    )
    assert show.verb(Remove("old-1", "demo.old-1")) == (
        "old-1", "REMOVE", "the file does not name it; its disk goes",
    )  # fmt: skip
    assert show.verb(Keep(node)) == ("head-1", "keep", "it runs as it shall")


def test_nodes_of_a_host_that_does_not_answer_are_unknown(site, capsys):
    site.ledger.open_cluster(
        ClusterRow("demo", "lab", "10.7.0.0/24", CLUSTER, SECRET, "2026-01-02T03:04:05+00:00"),
        [NodeRow("demo", "head-1", "head", "10.7.0.1", stage="healthy")],
    )
    [row] = show.nodes(site, ["demo"])
    assert (row["machine"], row["stage"], row["last"]) == ("unknown", "-", "healthy")
    show.node_table([row], Terminal())
    assert capsys.readouterr().out == (
        "NODE    ROLE  ADDRESS   MACHINE  STAGE  CPU  MEMORY  NETWORK  HOST\n"
        "head-1  head  10.7.0.1  unknown  -      -    -       -        lab\n"
        "head-1: host 'lab' does not run; phx host up lab\n"
    )


def test_no_nodes_say_what_to_do(capsys):
    show.node_table([], Terminal())
    assert capsys.readouterr().out == "no nodes; start some: phx up CLUSTER.yaml\n"


# What draft() refuses, as the user reads it.


def refused(error, site, path, text):
    with pytest.raises(error) as caught:
        draft(site, path, text)
    return explain(caught.value).replace(str(path), "FILE")


def test_an_image_that_is_not_there(site, tmp_path):
    assert refused(
        InputError, site, tmp_path / "c.yaml", CLUSTER.replace("image: worker", "image: wroker", 1)
    ) == (
        "error: FILE:5: roles.head.image: no image 'wroker' in the catalog\n  hint: did you mean 'worker'?"
    )


def test_a_disk_smaller_than_the_image(site, tmp_path):
    text = CLUSTER.replace("    count: 2\n", "    count: 2\n    disk: 512M\n")
    assert refused(InputError, site, tmp_path / "c.yaml", text) == (
        "error: FILE:12: roles.worker.disk: a disk of 512M is smaller than the image's 1024M\n"
        "  hint: write a larger disk"
    )


def test_more_than_the_host_has(site, tmp_path):
    said = refused(NoRoom, site, tmp_path / "c.yaml", CLUSTER.replace("count: 2", "count: 20"))
    assert said == (
        "error: no host for worker-8: needs 0.5 cores, 1G, 4G of disk and 20Mbit\n"
        "  hint: roomiest is lab with 0.1 cores, 0B, 368.0G of disk and 860Mbit left"
    )


def test_cpus_that_the_host_has_not_or_that_do_not_carry_who_stays_there(site, tmp_path):
    site.ledger.put_host(replace(LAB, cpus="0-3"))
    pinned = CLUSTER.replace("limit: 2}", "limit: 2, pin: 2-7}")
    assert refused(InputError, site, tmp_path / "c.yaml", pinned) == (
        "error: FILE:13: roles.worker.cpu.pin: host 'lab' has no CPU 4-7\n  hint: it has 0-3"
    )
    assert refused(NoRoom, site, tmp_path / "c.yaml", pinned.replace("2-7", "2")) == (
        "error: guests that stay on CPUs 2 are guaranteed 1 cores together\n"
        "  hint: host 'lab' can promise 0.9 there; pin to more CPUs, or lower cpu.guarantee"
    )
    assert (
        draft(site, tmp_path / "c.yaml", pinned.replace("2-7", "2-3")).plan.nodes[1].machine.pin
        == "2-3"
    )


def test_a_limit_above_the_hosts_cores(site, tmp_path):
    said = refused(NoRoom, site, tmp_path / "c.yaml", CLUSTER.replace("limit: 2}", "limit: 5}"))
    assert said == (
        "error: no host for worker-1: its limit is 5 cores\n  hint: lab has 4; lower cpu.limit"
    )


def test_a_network_that_another_cluster_has(site, tmp_path):
    site.ledger.open_cluster(
        ClusterRow("other", "lab", "10.7.0.0/16", "", SECRET, "2026-01-02T03:04:05+00:00"), []
    )
    assert refused(InputError, site, tmp_path / "c.yaml", CLUSTER) == (
        "error: network: 10.7.0.0/24 overlaps 10.7.0.0/16 of another cluster\n"
        "  hint: choose another, or leave 'network' out"
    )


def test_a_known_cluster_keeps_its_network_secret_and_host(site, tmp_path):
    row = site.ledger.open_cluster(
        ClusterRow("demo", "lab", "10.9.0.0/24", "", SECRET, "2026-01-02T03:04:05+00:00"), []
    )
    path = tmp_path / "c.yaml"
    found = draft(site, path, CLUSTER.replace("network: 10.7.0.0/24\n", ""))
    assert str(found.plan.network) == "10.9.0.0/24" and found.before == 0
    assert found.row.secret == row.secret
    assert refused(InputError, site, path, CLUSTER) == (
        "error: FILE:2: network: the cluster runs on 10.9.0.0/24 and cannot move to 10.7.0.0/24\n"
        "  hint: phx down demo first"
    )
    moved = refused(InputError, site, path, CLUSTER.replace("network: 10.7.0.0/24", "host: other"))
    assert moved == (
        "error: FILE:2: host: the cluster is on host 'lab' and does not move to 'other'\n  hint: phx down demo first"
    )


def test_a_newer_image_concerns_up_and_nobody_else(site):
    """`phx scale` and `recontext` plan with the images that the nodes have."""
    first = draft(site, DEMO)
    site.ledger.open_cluster(first.row, [])
    newer = replace(IMAGE, id="9" * 64, built="2031-01-01T00:00:00+00:00")

    def make(folder):
        (folder / "manifest.json").write_text(newer.to_json())
        return newer

    site.catalog.add(make)
    assert {n.machine.image for n in draft(site, DEMO).plan.nodes} == {newer.id}
    cluster = first.spec.cluster
    for now in (None, spec.load(DEMO)[1]):
        parsed, document = launch.kept(site, cluster, now)
        kept = draft_of(site, parsed, document, None)
        assert {n.machine.image for n in kept.plan.nodes} == {IMAGE.id}
    other = spec.load(DEMO)[1]
    other.data["roles"]["worker"]["image"] = "worker:latest"
    parsed, _ = launch.kept(site, cluster, other)
    assert parsed.roles["worker"].image == "worker:latest", "another name is another wish"


def test_an_image_whose_agent_reads_other_seeds_is_refused(site):
    old = replace(IMAGE, id="8" * 64, agent=1, built="2031-01-01T00:00:00+00:00")

    def make(folder):
        (folder / "manifest.json").write_text(old.to_json())
        return old

    site.catalog.add(make)
    with pytest.raises(InputError) as caught:
        draft(site, DEMO)
    said = explain(caught.value)
    assert "roles.head.image: the agent of image 888888888888 reads seeds of version 1" in said
    assert "hint: phx build worker" in said
