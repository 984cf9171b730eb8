"""One cluster of two guests: whoever speaks for another reaches nobody, and drift made by hand is found and mended."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import guard, network
from cluster.site import Site
from tests.vm.conftest import Phx, cluster_text

pytestmark = pytest.mark.vm

NAME = "watched"
ROLES = """  one:
    count: 2
    image: worker
    cpu: {guarantee: 0.4, limit: 1}
    memory: 256M
    network: {guarantee: 20Mbit, limit: 100Mbit}
"""
ME, PEER, HOST = "10.83.0.1", "10.83.0.2", "10.83.0.254"
TAP, OTHER_TAP = network.tap(NAME, "one-1"), network.tap(NAME, "one-2")


class Host:
    """The sandbox of the cluster, from its inside."""

    def __init__(self, name: str, phx: Phx) -> None:
        self.name, self.uri = name, Site(phx.home).ledger.host(name).uri

    def inside(self, *argv: str) -> str:
        full = ["nsenter", f"--net=/run/netns/phx-{self.name}", *argv]
        return subprocess.run(full, check=True, capture_output=True, text=True, timeout=60).stdout

    def virsh(self, *words: str) -> str:
        argv = ["virsh", "-q", "-c", self.uri, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout

    def refused(self, tap: str = TAP) -> int:
        said = self.inside("nft", "-j", "list", "table", "bridge", f"phx-{NAME}")
        return guard.standing(said).refused.get(tap, 0)

    def neighbour(self, address: str) -> str:
        """The MAC behind an address, as the host believes it."""
        told = json.loads(self.inside("ip", "-j", "neigh", "show", address))
        return next((n["lladdr"] for n in told if "lladdr" in n), "")


@pytest.fixture(scope="module")
def ready(image: Phx, sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phx]:
    file = tmp_path_factory.mktemp("watched") / "watched.yaml"
    file.write_text(cluster_text(NAME, ROLES, network="10.83.0.0/24"))
    image.run("up", file, "--host", sandbox)
    yield image
    image.run("down", NAME, status=None)


@pytest.fixture(scope="module")
def host(ready: Phx, sandbox: str) -> Host:
    return Host(sandbox, ready)


def ssh(phx: Phx, command: str, node: str = "one-1") -> str:
    return phx.run("ssh", node, "--", command, timeout=90).stdout


def reaches(phx: Phx, source: str, to: str, patience: int = 2) -> bool:
    """Whether somebody answers a TCP connection from an address of one-1; the host has no SSH, and says so."""
    tries = (
        "import socket\n"
        f"try: socket.create_connection(('{to}', 22), {patience}, ('{source}', 0)); print('yes')\n"
        "except ConnectionRefusedError: print('yes')\n"
        "except OSError as cause: print(cause)"
    )
    return ssh(phx, f'python3 -c "{tries}"').strip() == "yes"


def test_honest_guests_are_heard_and_nothing_of_theirs_is_refused(ready: Phx, host: Host) -> None:
    assert reaches(ready, ME, PEER) and reaches(ready, ME, HOST)
    assert host.refused() == host.refused(OTHER_TAP) == 0
    assert ready.json("verify", NAME) == []


def test_another_address_of_the_network_reaches_nobody(ready: Phx, host: Host) -> None:
    ssh(ready, "ip addr add 10.83.0.77/24 dev eth0")
    assert not reaches(ready, "10.83.0.77", PEER) and not reaches(ready, "10.83.0.77", HOST)
    assert reaches(ready, ME, PEER), "under its own it still does"
    assert host.refused() > 0
    ssh(ready, "ip addr del 10.83.0.77/24 dev eth0")


def test_a_peers_address_is_not_taken_over(ready: Phx, host: Host) -> None:
    """one-1 takes the address of one-2, and answers ARP for it, aloud and again and again."""
    before = host.neighbour(PEER) or (host.inside("ip", "neigh"), reaches(ready, ME, PEER))[0]
    claim = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0x0806))\n"
        "me = s.getsockname()[4]; mine = socket.inet_aton('" + PEER + "')\n"
        "reply = bytes.fromhex('0001080006040002') + me + mine + b'\\xff' * 6 + mine\n"
        "for _ in range(20): s.send(b'\\xff' * 6 + me + b'\\x08\\x06' + reply); time.sleep(0.05)"
    )
    ssh(ready, f"ip addr add {PEER}/32 dev eth0")
    refused = host.refused()
    ssh(ready, f'python3 -c "{claim}"')
    assert host.refused() >= refused + 20
    assert host.neighbour(PEER) in (before, ""), "the host believes the right one"
    assert ssh(ready, "hostname", "one-2").strip() == "one-2", "and reaches it"
    ssh(ready, f"ip addr del {PEER}/32 dev eth0")


def test_a_peers_mac_reaches_nobody(ready: Phx, host: Host) -> None:
    """Its own line goes with its MAC: it tries alone, goes back, and tells afterwards."""
    mac = ssh(ready, "cat /sys/class/net/eth0/address", "one-2").strip()
    tries = f"""
own=$(cat /sys/class/net/eth0/address)
ip link set eth0 address {mac}
ping() {{ python3 -c "import socket; socket.create_connection(('{HOST}', 22), 3)"; }}
ping 2>/run/trying || :
ip link set eth0 address $own
mv /run/trying /run/tried"""
    refused = host.refused()
    ssh(ready, f"systemd-run --quiet --collect sh -c {shlex.quote(tries)}")
    said = ssh(ready, "until [ -e /run/tried ]; do sleep 0.2; done; tail -n1 /run/tried")
    assert "timed out" in said or "No route" in said, said
    assert host.refused() > refused
    assert reaches(ready, ME, PEER)


def drifts(phx: Phx, *words: str) -> list[tuple[str, str]]:
    """(code, node) of each drift; the exit status agrees."""
    done = phx.run("verify", *(words or (NAME,)), "--json", status=None)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found else 0), done.stderr
    return [(d["code"], d["node"]) for d in found]


BY_HAND = {
    "weight and cap": ("PHX-V05", "virsh schedinfo GUEST --set cpu_shares=100 --set global_quota=50000"),
    "balloon": ("PHX-V06", "virsh setmem GUEST 200M --live"),
    "limits of the disk": ("PHX-V07", "virsh blkdeviotune GUEST vda --total-iops-sec 7 --live"),
    "bandwidth to it": ("PHX-V08", "tc class change dev TAP parent 1:1 classid 1:10 htb rate 1mbit ceil 1gbit"),
    "no bandwidth to it": ("PHX-V08", "tc qdisc del dev TAP root"),
    "no bandwidth from it": ("PHX-V08", "tc qdisc del dev TAP ingress"),
    "its ifb is down": ("PHX-V08", "ip link set IFB down"),
    "its ifb is gone": ("PHX-V08", "ip link del IFB"),
    "its rules": ("PHX-V09", "nft delete element bridge TABLE guests '{ TAP }'"),
    "off the bridge": ("PHX-V11", "ip link set TAP nomaster"),
}  # fmt: skip
NAMES = {"GUEST": f"{NAME}.one-1", "TAP": TAP, "IFB": network.ifb(TAP), "TABLE": f"phx-{NAME}"}


@pytest.mark.parametrize("what", BY_HAND)
def test_what_was_changed_by_hand_is_found_and_mended(ready: Phx, host: Host, what: str) -> None:
    code, line = BY_HAND[what]
    for word, name in NAMES.items():
        line = line.replace(word, name)
    program, *words = shlex.split(line)
    host.virsh(*words) if program == "virsh" else host.inside(program, *words)
    assert drifts(ready) == [(code, "one-1")]
    assert drifts(ready, NAME, "--fix") == [], "looked at again, after it was mended"


def test_rules_that_are_gone_are_told_of_every_node(ready: Phx, host: Host) -> None:
    host.inside("nft", "delete", "table", "bridge", f"phx-{NAME}")
    assert drifts(ready) == [("PHX-V09", "one-1"), ("PHX-V09", "one-2")]
    assert drifts(ready, NAME, "--fix") == []


def test_what_is_left_of_no_cluster_is_found_and_devices_are_removed(
    ready: Phx, host: Host
) -> None:
    host.inside("ip", "link", "add", "phxi00000000", "type", "ifb")
    host.inside("nft", "add", "table", "bridge", "phx-old")

    def told(*words: str) -> set[str]:
        said = json.loads(ready.run("verify", "--all", *words, "--json", status=None).stdout)
        return {d["code"] for d in said if d["host"] == host.name}

    assert told() == {"PHX-V21", "PHX-V23"}
    assert told("--fix") == {"PHX-V23"}, "a table may be another home's"
    host.inside("nft", "delete", "table", "bridge", "phx-old")


def test_a_guest_that_somebody_started_again_has_a_new_tap_and_nothing_held(
    ready: Phx, host: Host
) -> None:
    host.virsh("destroy", f"{NAME}.one-1")
    assert drifts(ready, NAME, "--fix") == [("PHX-V02", "one-1")], "starting it is for phx up"
    host.virsh("start", f"{NAME}.one-1")
    assert ("PHX-V08", "one-1") in drifts(ready)
    assert drifts(ready, NAME, "--fix") == []


def test_an_edited_definition_and_a_lost_disk_are_told_and_left_alone(
    ready: Phx, host: Host, sandbox: str
) -> None:
    disk = (
        Path(Site(ready.home).ledger.host(sandbox).folder) / "lib/philoxenia" / NAME / "one-2.qcow2"
    )
    disk.rename(disk.with_suffix(".aside"))
    assert drifts(ready, NAME, "--fix") == [("PHX-V12", "one-2")]
    disk.with_suffix(".aside").rename(disk)
    assert drifts(ready) == []
