"""What the world does to a Xen host under a cluster: its connection is cut at any moment of a launch, it reboots, it is
killed. `phx ps` says what is so, the next `phx up` finishes, nothing is left behind.

The first module of the tier: the image is brought here, and cut off on the way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.hosts import xenhost
from tests.vm.conftest import Phx, eventually
from tests.xen.conftest import TIMEOUT
from tests.xen.test_host import enter, row

pytestmark = pytest.mark.xen

FILE = """\
cluster: xf
deadline: 10m
roles:
  back:
    image: base
    autostart: true
    cpu: {guarantee: 0.2, limit: 0.5}
    memory: 192M
    network: {guarantee: 5Mbit, limit: 20Mbit}
    context:
      provides: [{name: boot, command: cat /proc/sys/kernel/random/boot_id, to: [lost]}]
  lost:
    image: base
    cpu: {guarantee: 0.2, limit: 1}
    memory: 192M
    network: {guarantee: 5Mbit, limit: 20Mbit}
    context:
      requires: [{fact: boot}]
      files: [{path: /etc/boot, fact: boot}]
"""
SESSIONS = "$(pgrep -P $(cat /run/sshd.pid))"


@pytest.fixture(scope="module")
def file(xen_image: Phx, xen: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cluster's file; its image is in the catalog, and on the host only when a launch brought it there."""
    xen_image.run("build", "base", timeout=TIMEOUT)
    path: Path = tmp_path_factory.mktemp("faults") / "cluster.yaml"
    path.write_text(FILE)
    return path


def machines(phx: Phx) -> dict[str, tuple[str, str]]:
    return {r["node"]: (r["machine"], r["stage"]) for r in phx.json("ps", "xf")}  # type: ignore[attr-defined]


def inside(phx: Phx, node: str, *words: str) -> str:
    return phx.run("ssh", f"xf/{node}", "--", *words, timeout=180).stdout.strip()


def cut(phx: Phx, xen: str, file: Path, word: str, after: float = 0) -> str:
    """Launch, end every SSH session of the host once `word` was said (and some seconds later); what was said then."""
    process = phx.start("up", str(file), "--host", xen)
    assert process.stderr is not None
    try:
        said = ""
        while word not in said:
            line = process.stderr.readline()
            assert line, f"it ended before it said '{word}':\n{said}"
            said += line
        time.sleep(after)
        config = str(phx.home / "hosts" / xen / "ssh_config")
        subprocess.run(
            ["ssh", "-F", config, "-o", "ControlPath=none", xen, f"kill {SESSIONS}"],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        _, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, rest
    assert "was cut" in rest and "run the same command again" in rest
    return rest


def test_cut_while_the_image_travels(xen_image, xen, file):
    said = cut(xen_image, xen, file, "to host", 3)
    assert "the connection was cut" in said
    assert machines(xen_image) == {"back-1": ("gone", "-"), "lost-1": ("gone", "-")}
    there = enter(xen_image, xen, "ls /var/lib/libvirt/images/philoxenia; pgrep -f '[B]LAKE2' || :")
    assert [word.endswith(".part") for word in there.split() if word != "lock"] == [True]


def test_cut_while_guests_start(xen_image, xen, file):
    said = cut(xen_image, xen, file, "started")
    assert "Traceback" not in said
    there = enter(xen_image, xen, "xl list")
    for node, (machine, stage) in machines(xen_image).items():
        assert (machine == "running") == (f"xf.{node}" in there) and stage != "ready"


def test_cut_while_they_are_waited_for(xen_image, xen, file):
    said = cut(xen_image, xen, file, "booted")
    assert "the host was lost while nodes were waited for: " in said
    assert {m for m, _ in machines(xen_image).values()} == {"running"}
    assert "ready" not in {s for _, s in machines(xen_image).values()}


def test_the_next_launch_finishes_and_nothing_is_left(xen_image, xen, file):
    xen_image.run("up", str(file), "--host", xen, timeout=TIMEOUT)
    assert set(machines(xen_image).values()) == {("running", "ready")}
    assert xen_image.run("verify", "xf").stdout == "all is as promised\n"
    assert enter(xen_image, xen, "xl list | tail -n +3 | wc -l").strip() == "2"
    assert (
        enter(xen_image, xen, "ls -d /var/lib/libvirt/images/philoxenia/*.part 2>/dev/null || :")
        == ""
    )
    assert xen_image.run("plan", str(file)).stdout.endswith("no changes\n")


def back_by_itself(phx: Phx, xen: str, file: Path) -> None:
    """After the host's boot: who has autostart runs and is held, unknown to be ready; the other is off."""
    assert machines(phx) == {"back-1": ("running", "defined"), "lost-1": ("off", "-")}
    said = phx.run("ps", "xf").stdout
    assert "back-1: started without phx and not known to be ready" in said
    assert "lost-1: phx up starts it again, its disk stays" in said
    planned = phx.json("plan", str(file))
    assert {n["node"]: n["action"] for n in planned["nodes"]} == {
        "back-1": "await",
        "lost-1": "start",
    }  # type: ignore[index,call-overload]
    assert enter(phx, xen, "xl sched-credit2 -d xf.back-1").split()[-1] == "50"
    drift = phx.run("verify", "xf", status=1).stdout
    assert "PHX-V02" in drift and drift.count("PHX-V") == 1, "its rates and its guard are in force"


def test_a_reboot_of_dom0_brings_back_who_has_autostart(xen_image, xen, file):
    before = inside(xen_image, "back-1", "cat", "/proc/sys/kernel/random/boot_id")
    assert inside(xen_image, "lost-1", "cat", "/etc/boot") == before
    enter(xen_image, xen, "sync; reboot")
    eventually(
        "it is noticed", lambda: {m for m, _ in machines(xen_image).values()} == {"unknown"}, 60
    )
    eventually("it answers again", lambda: row(xen_image, xen)["answers"] is True, 180)
    back_by_itself(xen_image, xen, file)
    xen_image.run("up", str(file), timeout=TIMEOUT)
    assert set(machines(xen_image).values()) == {("running", "ready")}
    again = inside(xen_image, "back-1", "cat", "/proc/sys/kernel/random/boot_id")
    assert again != before and inside(xen_image, "lost-1", "cat", "/etc/boot") == again, (
        "it was told anew"
    )


def test_a_killed_qemu_is_noticed_and_the_disk_stays(xen_image, xen, file):
    enter(xen_image, xen, "echo kept > /root/kept; sync")
    folder = Path(str(row(xen_image, xen)["folder"]))
    os.kill(xenhost._pid(folder), signal.SIGKILL)
    eventually("QEMU is gone", lambda: not xenhost.alive(folder))
    assert row(xen_image, xen)["answers"] is False
    assert set(machines(xen_image).values()) == {("unknown", "-")}
    assert f"host '{xen}' does not run; phx host up {xen}" in xen_image.run("ps", "xf").stdout
    for words in (("host", "show", xen), ("plan", str(file)), ("up", str(file))):
        lost = xen_image.run(*words, status=3)
        assert f"host '{xen}' does not run" in lost.stderr and f"phx host up {xen}" in lost.stderr
    assert "PHX-V31" in xen_image.run("verify", "xf", status=1).stdout
    xen_image.run("host", "up", xen, timeout=TIMEOUT)
    assert row(xen_image, xen)["answers"] is True
    assert enter(xen_image, xen, "cat /root/kept").strip() == "kept"
    back_by_itself(xen_image, xen, file)
    xen_image.run("down", "xf", timeout=300)
    assert enter(xen_image, xen, "ls /etc/libvirt/libxl/autostart /var/lib/libvirt/philoxenia") .split() == [
        "/etc/libvirt/libxl/autostart:", "/var/lib/libvirt/philoxenia:"
    ]  # fmt: skip
