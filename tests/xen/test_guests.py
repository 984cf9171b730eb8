"""Guests of a real Xen: launched, told all over the PV channel, held to their guarantees, gone without a trace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.vm.conftest import Phx, eventually
from tests.xen.conftest import TIMEOUT
from tests.xen.test_host import enter

pytestmark = pytest.mark.xen

FILE = """\
cluster: xt
deadline: 15m
roles:
  pv:
    count: 2
    image: base
    virtualization: pv
    crash: restart
    cpu: {guarantee: 0.2, limit: 0.5}
    memory: {min: 192M, max: 256M}
    network: {guarantee: 5Mbit, limit: 20Mbit}
    context:
      provides: [{name: token, command: "hostname | sed s/-.*//", to: [pvh]}]
  pvh:
    image: base
    virtualization: pvh
    cpu: {guarantee: 0.2, limit: 1, pin: 1}
    memory: 256M
    network: {guarantee: 5Mbit, limit: 20Mbit}
    context:
      requires: [{fact: token}]
      files: [{path: /etc/token, fact: token}]
"""


@pytest.fixture(scope="module")
def cluster(xen_image: Phx, xen: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two PV guests and one PVH guest, ready; the images are brought in this one launch."""
    xen_image.run("build", "base", timeout=TIMEOUT)
    file: Path = tmp_path_factory.mktemp("xen") / "cluster.yaml"
    file.write_text(FILE)
    done = xen_image.run("up", str(file), "--host", xen, timeout=1200)
    assert done.stdout.count("ready") >= 3
    return file


def inside(phx: Phx, node: str, *words: str) -> str:
    return phx.run("ssh", f"xt/{node}", "--", *words, timeout=180).stdout.strip()


def test_they_are_what_was_asked_for(xen_image, xen, cluster):
    assert "xt.pv-1" in enter(xen_image, xen, "xl list")
    for node, kind in (("pv-1", "PV"), ("pv-2", "PV"), ("pvh-1", "PVH")):
        assert inside(xen_image, node, "cat", "/sys/hypervisor/guest_type") == kind
    rows = {r["node"]: r for r in xen_image.json("ps", "xt")}
    assert {n: (r["machine"], r["stage"]) for n, r in rows.items()} == dict.fromkeys(
        ("pv-1", "pv-2", "pvh-1"), ("running", "ready")
    )


def test_they_know_each_other(xen_image, cluster):
    assert "1 received" in inside(xen_image, "pv-1", "ping", "-c1", "-W9", "pvh-1")
    assert inside(xen_image, "pvh-1", "cat", "/etc/token") == "pv"


def test_weight_cap_balloon_and_rates_are_in_force(xen_image, xen, cluster):
    held = {
        words[0]: words[2:]
        for line in enter(xen_image, xen, "xl sched-credit2").splitlines()
        if (words := line.split())[:1] and words[0].startswith("xt.")
    }
    assert held == {"xt.pv-1": ["205", "50"], "xt.pv-2": ["205", "50"], "xt.pvh-1": ["205", "100"]}
    memory = enter(xen_image, xen, "xl list xt.pv-1").splitlines()[1].split()[2]
    assert abs(int(memory) - 192) <= 1
    where = {
        words[0]: words[-3]
        for line in enter(xen_image, xen, "xl vcpu-list").splitlines()
        if (words := line.split())[:1] and words[0].startswith("xt.")
    }
    assert where["xt.pvh-1"] == "1" and where["xt.pv-1"] == "all", "hard affinity"
    rates = enter(xen_image, xen, "xenstore-ls -f /local/domain/0/backend/vif | grep /rate")
    assert rates.count('"125000,50000"') == 3
    assert "ceil 20Mbit" in enter(
        xen_image, xen, "for d in /sys/class/net/phxt*; do tc class show dev ${d##*/}; done"
    )


def test_who_reboots_or_crashes_is_held_again(xen_image, xen, cluster):
    """It is another domain of Xen, and no phx is there: the hook of dom0 is."""
    panic = "(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &"
    before = {n: enter(xen_image, xen, f"xl domid xt.{n}").strip() for n in ("pv-1", "pv-2")}
    inside(xen_image, "pv-2", "systemctl", "reboot", "--no-block")
    inside(xen_image, "pv-1", panic)

    def again(node: str) -> bool:
        now = enter(xen_image, xen, f"xl domid xt.{node} 2>/dev/null || echo none").strip()
        told = enter(xen_image, xen, f"xl sched-credit2 -d xt.{node} 2>/dev/null || :")
        path = f"/local/domain/0/backend/vif/{now}/0/rate"
        rate = enter(xen_image, xen, f"xenstore-read {path} 2>/dev/null || :")
        return (
            now not in ("none", before[node]) and told.split()[-1:] == ["50"] and "125000," in rate
        )

    for node in before:
        eventually(f"cap and rate of {node} are there again", lambda node=node: again(node), 240)

    xen_image.run("up", str(cluster), timeout=900)


def test_paused_it_stands_and_goes_on(xen_image, xen, cluster):
    xen_image.run("pause", "xt")
    assert {r["machine"] for r in xen_image.json("ps", "xt")} == {"paused"}
    xen_image.run("resume", "xt", timeout=600)
    assert {r["stage"] for r in xen_image.json("ps", "xt")} == {"ready"}


def test_saved_to_disk_it_goes_on_where_it_was(xen_image, xen, cluster):
    """Programs, disks, channel and clocks go on; caps and rates are set again; the saved memory is gone from dom0."""
    nodes, boot = ("pv-1", "pvh-1"), "/proc/sys/kernel/random/boot_id"
    boots = [inside(xen_image, node, "cat", boot) for node in nodes]
    saved = "/var/lib/libvirt/libxl/save"
    xen_image.run("suspend", "xt", timeout=300)
    assert {r["machine"] for r in xen_image.json("ps", "xt")} == {"off"}
    assert enter(xen_image, xen, f"ls {saved}").split() == [
        "xt.pv-1.save", "xt.pv-2.save", "xt.pvh-1.save",
    ]  # fmt: skip
    assert enter(xen_image, xen, "xl list | tail -n +3") == ""
    xen_image.run("resume", "xt", timeout=600)
    assert {r["stage"] for r in xen_image.json("ps", "xt")} == {"ready"}
    assert [inside(xen_image, node, "cat", boot) for node in nodes] == boots, "none did boot"
    for node in nodes:
        # Read from its disk: what waits for it would wait for ever.
        inside(xen_image, node, "echo 3 >/proc/sys/vm/drop_caches; ls -R /usr >/run/all")
        assert abs(time.time() - float(inside(xen_image, node, "date", "+%s"))) < 20
    for name, cap in (("xt.pv-1", "50"), ("xt.pvh-1", "100")):
        assert enter(xen_image, xen, f"xl sched-credit2 -d {name}").split()[-1] == cap
    rates = enter(xen_image, xen, "xenstore-ls -f /local/domain/0/backend/vif | grep /rate")
    assert rates.count('"125000,50000"') == 3
    assert enter(xen_image, xen, f"ls {saved}") == ""


def test_a_killed_libvirtd_loses_nothing(xen_image, xen, cluster):
    enter(xen_image, xen, "kill -9 $(cat /run/libvirtd.pid 2>/dev/null || pidof libvirtd)")
    eventually("libvirtd is there again", lambda: any(
        h["name"] == xen and h["answers"] for h in xen_image.json("host", "ls")), 120)  # fmt: skip
    assert {r["machine"] for r in xen_image.json("ps", "xt")} == {"running"}


def test_down_leaves_nothing_in_dom0(xen_image, xen, cluster):
    xen_image.run("down", "xt", timeout=300)
    assert enter(xen_image, xen, "xl list | tail -n +3") == ""
    assert enter(xen_image, xen, "ls /sys/class/net").split() == ["eth0", "lo"]
    left = "/var/lib/libvirt/philoxenia /run/libvirt/philoxenia /var/log/xen/console"
    assert enter(xen_image, xen, f"find {left} -type f -o -type s 2>/dev/null || :") == ""
    assert "xt" not in enter(xen_image, xen, "nft list ruleset")
