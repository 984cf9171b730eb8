"""The straight line on real guests: three nodes with identities, promises that hold, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import network
from cluster.hosts.sandbox import pids
from cluster.site import Site
from contextualize.identity import derive
from tests.vm.conftest import PHX, Phx, cluster_text

pytestmark = pytest.mark.vm

NAME = "light"
ROLES = """  head:
    image: worker
    cpu: {guarantee: 0.4, limit: 1}
    memory: 320M
    network: {guarantee: 20Mbit, limit: 200Mbit}
    ssh_to: [worker]
  worker:
    count: 2
    image: worker
    cpu: {guarantee: 0.5, limit: 0.8}
    memory: 256M
    network: {guarantee: 2Mbit, limit: 8Mbit}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("light") / "light.yaml"
    path.write_text(cluster_text(NAME, ROLES, network="10.81.0.0/24"))
    return path


@pytest.fixture(scope="module")
def ready(image: Phx, sandbox: str, file: Path) -> Iterator[Phx]:
    """The cluster, every node ready."""
    said = image.run("up", file, "--host", sandbox)
    assert said.stderr.count(" ready (") == 3, said.stderr
    yield image
    image.run("down", NAME, status=None)


def ssh(phx: Phx, node: str, *command: str, status: int | None = 0) -> str:
    return phx.run("ssh", node, "--", *command, status=status, timeout=90).stdout


def test_every_node_is_who_its_seed_says(ready: Phx) -> None:
    rows = ready.nodes()
    assert {(r["machine"], r["stage"]) for r in rows.values()} == {("running", "ready")}
    ids = set()
    for node, row in rows.items():
        said = ssh(
            ready,
            node,
            "hostname; cat /etc/machine-id; ip -4 -o addr show eth0; ip route; cat /etc/hosts",
        )
        host, machine_id, rest = said.split("\n", 2)
        assert host == node
        assert f"inet {row['address']}/24" in rest
        assert "default" not in rest, "a private network has no way out"
        for peer, other in rows.items():
            assert re.search(rf"^{re.escape(other['address'])} {peer} ", rest, re.M), rest
        ids.add(machine_id)
    assert len(ids) == 3


def test_the_head_gives_work_by_host_name_and_verified_keys(ready: Phx) -> None:
    said = ssh(ready, "head-1", "count-primes 200000 worker-1 worker-2")
    assert "17984 primes below 200000, 2 nodes" in said
    assert "worker-1 counted" in said
    assert "worker-2 counted" in said


def test_a_role_without_ssh_to_enters_nobody(ready: Phx) -> None:
    said = ready.run("ssh", "worker-1", "--", "ssh -o BatchMode=yes head-1 true", status=None)
    assert said.returncode != 0
    assert "Permission denied" in said.stderr


def test_a_wrong_host_key_is_refused(ready: Phx) -> None:
    known = ready.home / "clusters" / NAME / "known_hosts"
    text = known.read_text()
    keys = re.findall(r"ssh-ed25519 \S+", text)
    try:
        known.write_text(text.replace(keys[0], keys[1], 1))
        said = ready.run("ssh", "head-1", "--", "true", status=None)
        assert said.returncode != 0
        assert "verification failed" in said.stderr
    finally:
        known.write_text(text)


def test_plain_ssh_with_the_written_configuration_enters(ready: Phx) -> None:
    config = ready.home / "clusters" / NAME / "ssh_config"
    assert ready.run("ssh-config", NAME).stdout == config.read_text()
    done = subprocess.run(
        ["ssh", "-F", str(config), "worker-2", "hostname"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "worker-2\n", done.stderr


def test_fabric_runs_on_the_written_configuration_as_it_is(ready: Phx) -> None:
    """Keys, addresses and the way in come from the file; host keys are looked at when it is told to."""
    from fabric import Config, Connection, ThreadingGroup
    from paramiko import RejectPolicy

    folder = ready.home / "clusters" / NAME
    config = Config(runtime_ssh_path=str(folder / "ssh_config"))
    with Connection("head-1", config=config) as one:
        assert one.run("hostname", hide=True, in_stream=False).stdout == "head-1\n"
    group = ThreadingGroup("worker-1", "worker-2", config=config)
    for connection in group:
        connection.client.load_host_keys(str(folder / "known_hosts"))
        connection.client.set_missing_host_key_policy(RejectPolicy())
    said = {
        c.original_host: r.stdout
        for c, r in group.run("hostname", hide=True, in_stream=False).items()
    }
    group.close()
    assert said == {"worker-1": "worker-1\n", "worker-2": "worker-2\n"}


def test_ansible_reaches_every_node_through_the_inventory(ready: Phx, tmp_path: Path) -> None:
    script = tmp_path / "inventory"
    ready.run("inventory", NAME, "--write", script)
    done = subprocess.run(
        [Path(PHX).with_name("ansible"), "-i", script, "all", "-o", "-m", "command", "-a", "hostname"],
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split(" ")[0] for line in done.stdout.splitlines() if "rc=0" in line} == {
        "head-1", "worker-1", "worker-2",
    }  # fmt: skip


def test_no_secret_in_process_lists_or_reports(ready: Phx) -> None:
    secret = Site(ready.home).ledger.cluster(NAME).secret
    text = derive(secret, NAME, "head-1").token.reveal().decode()
    listed = subprocess.run(["ps", "axwwe"], capture_output=True, text=True, check=True).stdout
    assert text not in listed
    assert secret.reveal().hex() not in listed
    assert text not in ready.run("logs", "head-1", "-n", "5000").stdout
    in_guest = ssh(ready, "head-1", "cat /run/philoxenia/context.json; journalctl --no-pager")
    assert text not in in_guest


def _rate(phx: Phx, sender: str, receiver: str, megabytes: int) -> float:
    """bit/s of one TCP stream between two guests, taken at the receiver."""
    listen = (
        "import socket,time;s=socket.create_server(('',7000));s.settimeout(60);c,_=s.accept();n=0;t=None\n"
        "while True:\n b=c.recv(65536)\n"
        " if not b: break\n t=t or time.monotonic();n+=len(b)\n"
        "print(n*8/(time.monotonic()-t))"
    )
    send = (
        "import socket,time\nfor _ in range(100):\n"
        f" try: c=socket.create_connection(('{receiver}',7000),5); break\n"
        " except OSError: time.sleep(0.2)\n"
        f"c.settimeout(60); c.sendall(bytes({megabytes}<<20)); c.close()"
    )
    hearing = phx.start("ssh", receiver, "--", f'python3 -c "{listen}"')
    ssh(phx, sender, f'python3 -c "{send}"')
    out, err = hearing.communicate(timeout=60)
    assert hearing.returncode == 0, err
    return float(out)


@pytest.mark.parametrize(
    "pair", [("head-1", "worker-1"), ("worker-1", "head-1")], ids=["into", "out-of"]
)
def test_bandwidth_is_never_passed_in_either_direction(ready: Phx, pair: tuple[str, str]) -> None:
    rate = _rate(ready, *pair, megabytes=3)
    assert rate <= 8_000_000 * 1.10
    assert rate >= 8_000_000 * 0.60, "shaped, not dropped: most of the limit is there to use"


def test_cpu_limit_is_never_passed(ready: Phx, sandbox: str) -> None:
    busy = ready.start("ssh", "worker-2", "--", "timeout 6 sh -c 'while :; do :; done'")
    (pid,) = (
        p
        for p in pids(sandbox)
        if f"guest={NAME}.worker-2" in Path(f"/proc/{p}/cmdline").read_text()
    )

    def seconds() -> float:
        """CPU time of QEMU's whole process, emulator threads included."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    time.sleep(2)
    before, started = seconds(), time.monotonic()
    time.sleep(3)
    used = (seconds() - before) / (time.monotonic() - started)
    busy.communicate(timeout=30)
    assert used <= 0.8 * 1.10
    assert used >= 0.4, "the guest was busy, so this measured the cap"


def test_up_again_changes_nothing(ready: Phx, file: Path, sandbox: str) -> None:
    assert "no changes, 3 nodes are ready" in ready.run("up", file).stdout
    assert "no changes" in ready.run("plan", file).stdout
    other = ready.run("up", file, "--host", "elsewhere", status=2)
    assert f"is on host '{sandbox}' and does not move" in other.stderr


def test_bandwidth_taken_away_by_hand_is_set_again(ready: Phx, file: Path, sandbox: str) -> None:
    tap = network.tap(NAME, "worker-1")
    subprocess.run(
        ["nsenter", f"--net=/run/netns/phx-{sandbox}", "tc", "qdisc", "del", "dev", tap, "root"],
        check=True,
    )
    said = ready.run("up", file)
    assert "bandwidth of worker-1 set again" in said.stderr


def test_a_change_is_shown_and_not_done_by_surprise(ready: Phx, file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "light.yaml"
    text = file.read_text()
    changed.write_text(text.replace("memory: 256M", "memory: 300M"))
    plan = ready.run("plan", changed).stdout
    assert plan.count("RESTART") == 2
    assert "memory.max is 300M, it booted with 256M; its disk stays" in plan
    changed.write_text(text.replace("memory: 256M", "memory: 256M\n    disk: 5G"))
    plan = ready.run("plan", changed).stdout
    assert plan.count("REPLACE") == 2
    assert "disk.size changed; its disk goes" in plan
    refused = ready.run("up", changed, status=2)
    assert (
        "2 running nodes would lose their disks: worker-1 (disk.size changed), worker-2"
        in refused.stderr
    )
    assert ready.nodes()["worker-1"]["memory"] == "256M"


def test_more_than_fits_is_refused_with_the_roomiest_host(
    ready: Phx, tmp_path: Path, sandbox: str
) -> None:
    big = tmp_path / "big.yaml"
    big.write_text(
        cluster_text(
            "big", ROLES.replace("guarantee: 0.5", "guarantee: 0.7"), network="10.82.0.0/24"
        )
    )
    said = ready.run("up", big, "--host", sandbox, status=4)
    assert re.search(r"no host for \w+-\d: needs 0\.\d cores", said.stderr)
    assert f"roomiest is {sandbox} with" in said.stderr
    assert {r["cluster"] for r in ready.json("ps")} == {NAME}  # type: ignore[attr-defined]
    overlap = tmp_path / "overlap.yaml"
    overlap.write_text(cluster_text("overlap", ROLES, network="10.81.0.0/16"))
    said = ready.run("up", overlap, "--host", sandbox, status=2)
    assert "overlaps 10.81.0.0/24 of another cluster" in said.stderr


def test_down_leaves_nothing(ready: Phx, sandbox: str) -> None:
    """Runs last: each kind of trace is looked for by itself."""
    inside = ["nsenter", f"--net=/run/netns/phx-{sandbox}"]
    ready.run("down", NAME)
    host = Site(ready.home).ledger.host(sandbox)
    virsh = ["virsh", "-q", "-c", host.uri]
    assert (
        subprocess.run(
            [*virsh, "list", "--all", "--name"], capture_output=True, text=True
        ).stdout.strip()
        == ""
    )
    assert (
        subprocess.run(
            [*virsh, "net-list", "--all", "--name"], capture_output=True, text=True
        ).stdout.strip()
        == ""
    )
    links = subprocess.run(
        [*inside, "ip", "-o", "link"], capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split(": ")[1] for line in links] == ["lo"]
    for top in (Path(host.folder), Path(host.run), ready.home / "clusters"):
        assert not [p for p in top.rglob("*") if NAME in p.name and "cache" not in p.parts]
    assert f"{NAME}." not in subprocess.run(
        ["ps", "axww"], capture_output=True, text=True
    ).stdout.replace("light.py", "")
    assert not [p for p in Path("/sys/fs/cgroup").rglob(f"*{NAME}*") if f"phx-{sandbox}" in str(p)]
    assert ready.json("ps") == []
    assert "no cluster 'light'" in ready.run("down", NAME, status=2).stderr
