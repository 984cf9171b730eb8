"""What other people's tools read of a cluster: OpenSSH's configuration, Ansible's inventory, hosts(5), events."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import inventory, membership
from cluster.ledger import ClusterRow, NodeRow
from cluster.site import Site
from tests.invented import CLUSTER, SECRET
from tests.test_cli import home, phx  # noqa: F401

ROWS = [
    NodeRow("demo", "head-1", "head", "10.7.0.1", "healthy"),
    NodeRow("demo", "worker-1", "worker", "10.7.0.2", "contextualized"),
    NodeRow("demo", "worker-2", "worker", "10.7.0.13"),
]
PROGRAM = Path(sys.executable).with_name("phx")


@pytest.fixture
def site(home):  # noqa: F811
    """A home that knows the cluster demo, whose host does not run."""
    found = Site(home)
    row = ClusterRow("demo", "lab", "10.7.0.0/24", CLUSTER, SECRET, "2026-01-02")
    found.ledger.open_cluster(row, ROWS)
    for row in ROWS:
        found.ledger.tell(row)
    found.ledger.note("demo", "head-1", "booted")
    yield found
    found.ledger.close()


def test_ssh_config_is_printed_and_written(site, phx, tmp_path):  # noqa: F811
    status, text, err = phx("ssh-config", "demo")
    assert (status, err) == (0, "") and text.count("Host ") == 3
    assert "Host worker-2 worker-2.demo\n    HostName 10.7.0.13\n" in text
    assert "ProxyCommand nsenter" in text and "IdentityFile TMP/home/clusters/demo/" in text
    file = tmp_path / "config"
    status, out, _ = phx("ssh-config", "demo", "--write", file)
    assert (status, out) == (0, "TMP/config is written: ssh -F TMP/config head-1\n")
    assert file.read_text().replace(str(tmp_path), "TMP") == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = json.loads(phx("ssh-config", "demo", "--json")[1])
    assert told[0]["names"] == ["head-1", "head-1.demo"] and "/dev/tcp" in told[0]["proxy_command"]
    status, _, err = phx("ssh-config", "demo", "--write", tmp_path / "no" / "config")
    assert status == 2 and err.startswith("error: --write: TMP/no/config: No such file")
    assert "no cluster 'deom'" in phx("ssh-config", "deom")[2]


def test_hosts_are_lines_of_etc_hosts(site, phx):  # noqa: F811
    assert phx("hosts", "demo")[1] == (
        "10.7.0.1  head-1 head-1.demo\n"
        "10.7.0.2  worker-1 worker-1.demo\n"
        "10.7.0.13 worker-2 worker-2.demo\n"
    )
    told = json.loads(phx("hosts", "demo", "--json")[1])
    assert told[2] == {"address": "10.7.0.13", "names": ["worker-2", "worker-2.demo"]}


def test_the_inventory_answers_as_ansible_asks(site, phx):  # noqa: F811
    plain = phx("inventory", "demo")
    assert plain == phx("inventory", "demo", "--list") and plain[0] == 0
    told = json.loads(plain[1])
    assert told["worker"] == {"hosts": ["worker-1", "worker-2"]}
    one = json.loads(phx("inventory", "demo", "--host", "worker-1")[1])
    assert told["_meta"]["hostvars"]["worker-1"] == one
    assert (one["phx_stage"], one["phx_address"]) == ("contextualized", "10.7.0.2")
    status, _, err = phx("inventory", "demo", "--host", "worker-7")
    assert status == 2 and "no node 'worker-7' in demo" in err


def test_roles_become_groups_that_ansible_takes():
    rows = [NodeRow("d", f"{role}-1", role, "10.7.0.1") for role in ("slurm-head", "all")]
    assert set(inventory.ansible(rows, Path("/c"))) == {"slurm_head", "role_all", "_meta"}
    config = Path("/a folder/ssh_config")
    assert inventory.host(rows[0], config)["ansible_ssh_common_args"] == f"-F '{config}'"


@pytest.mark.process
def test_ansible_reads_the_script_that_is_written(site, tmp_path):
    env = {**os.environ, "PHX_HOME": str(site.home), "ANSIBLE_HOME": str(tmp_path / "ansible")}
    script = tmp_path / "demo inventory"
    subprocess.run([PROGRAM, "inventory", "demo", "--write", script], env=env, check=True)
    del env["PHX_HOME"]
    done = subprocess.run(
        [PROGRAM.with_name("ansible-inventory"), "-i", script, "--list"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["worker"]["hosts"] == ["worker-1", "worker-2"]
    assert told["_meta"]["hostvars"]["head-1"]["phx_role"] == "head"
    assert "WARNING" not in done.stderr


def test_a_graph_of_a_cluster_and_of_its_file(site, phx, tmp_path):  # noqa: F811
    running = phx("graph", "demo")[1]
    assert 'worker_healthy(["healthy 0/2"])' in running
    file = tmp_path / "demo.yaml"
    file.write_text(CLUSTER)
    assert 'worker_healthy(["healthy"])' in phx("graph", file)[1]
    assert phx("graph", file, "--format", "dot")[1].startswith('digraph "demo" {')
    assert json.loads(phx("graph", "demo", "--json")[1])["roles"] == {"head": 1, "worker": 2}


# Events.


def test_following_ends_quietly_when_interrupted(site, phx, monkeypatch):  # noqa: F811
    naps = iter([lambda: site.ledger.note("demo", "", "more"), interrupted])
    monkeypatch.setattr(membership, "time", SimpleNamespace(sleep=lambda _: next(naps)()))
    status, out, err = phx("events", "demo", "--follow", "--json")
    assert [json.loads(line)["what"] for line in out.splitlines()] == ["booted", "more"]
    assert (status, err) == (130, "")


def interrupted():
    raise KeyboardInterrupt


def test_following_ends_when_the_cluster_is_gone(site, phx, monkeypatch):  # noqa: F811
    # Of this module alone: threads that other tests left may sleep too.
    gone = SimpleNamespace(sleep=lambda _: site.ledger.drop_cluster("demo"))
    monkeypatch.setattr(membership, "time", gone)
    status, out, err = phx("events", "demo", "--follow")
    assert (status, err) == (0, "demo is gone\n") and out.endswith("  head-1        booted\n")
