"""Guests, hosts and commands that die or misbehave: nothing is lost, nothing hangs, the message names who and why."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.hosts import sandbox as sandboxes
from tests.vm.conftest import ONE, Phx, cluster_text, eventually

pytestmark = pytest.mark.vm


def one(tmp_path: Path, name: str, image: str = "base", **extra: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(cluster_text(name, ONE.format(image=image), **extra))
    return path


def test_killed_at_any_moment_up_converges(image: Phx, sandbox: str, tmp_path: Path) -> None:
    """kill -9 at moments spread over the launch; then one run to the end, which finds and finishes the work."""
    file = one(tmp_path, "killed")
    for delay in (0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.3, 2.0):
        process = image.start("up", file, "--host", sandbox)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    image.run("up", file, "--host", sandbox)
    assert image.nodes()["one-1"]["stage"] == "ready"
    assert "no changes" in image.run("up", file).stdout
    assert image.run("ssh", "one-1", "--", "hostname").stdout == "one-1\n"
    image.run("down", "killed")


def test_a_guest_or_a_host_that_went_off_comes_back_with_its_disk(
    image: Phx, sandbox: str, tmp_path: Path
) -> None:
    file = one(tmp_path, "lights")
    image.run("up", file, "--host", sandbox)
    image.run("ssh", "one-1", "--", "echo kept > /root/mine; sync; systemctl poweroff", status=None)
    eventually("the guest powers off", lambda: image.nodes()["one-1"]["machine"] == "off", 40)
    assert image.nodes()["one-1"]["stage"] == "-", "a stage is not claimed of a machine that is off"
    assert "start" in image.run("plan", file).stdout
    image.run("up", file)
    assert image.run("ssh", "one-1", "--", "cat /root/mine").stdout == "kept\n"

    # The whole host dies, as at the machine's power cut.
    for pid in sandboxes.pids(sandbox):
        with contextlib.suppress(ProcessLookupError):  # the warden's end is the end of the others
            os.kill(pid, signal.SIGKILL)
    eventually("the sandbox is dead", lambda: not sandboxes.pids(sandbox))
    assert image.nodes()["one-1"]["machine"] == "unknown"
    image.run("up", file)
    assert image.run("ssh", "one-1", "--", "cat /root/mine").stdout == "kept\n"

    # The same with autostart: it comes back with its host, held before it has a network, and nobody claims it ready.
    file.write_text(file.read_text() + "    autostart: true\n")
    said = image.run("up", file)
    assert "one-1 starts when its host does" in said.stderr and "booted" not in said.stderr
    for pid in sandboxes.pids(sandbox):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually("the sandbox is dead", lambda: not sandboxes.pids(sandbox))
    said = image.run("host", "up", sandbox)
    assert "kept to their own addresses again" in said.stderr
    assert (image.nodes()["one-1"]["machine"], image.nodes()["one-1"]["stage"]) == (
        "running",
        "defined",
    )
    assert image.run("verify", "lights").stdout == "all is as promised\n"
    said = image.run("up", file)
    assert "one-1 ready" in said.stderr and "one-1 started" not in said.stderr

    # libvirtd alone dies: guests go on, the warden starts it again.
    host = Path(f"/run/philoxenia/{sandbox}")
    old = [
        p
        for p in sandboxes.pids(sandbox)
        if Path(f"/proc/{p}/comm").read_text().strip() == "libvirtd"
    ]
    os.kill(old[0], signal.SIGKILL)

    def back() -> bool:
        now = [
            p
            for p in sandboxes.pids(sandbox)
            if Path(f"/proc/{p}/comm").read_text().strip() == "libvirtd"
        ]
        return now != old and bool(now) and (host / "libvirt-sock").exists()

    # While libvirtd starts, a command that needs it waits for it, and `ps` says what it does not know.
    assert image.nodes()["one-1"]["machine"] in ("unknown", "running")
    assert "runs" in image.run("host", "up", sandbox).stdout
    assert back(), "the warden started another libvirtd"
    eventually("the guest runs on", lambda: image.nodes()["one-1"]["machine"] == "running")
    assert "no changes" in image.run("up", file).stdout
    image.run("down", "lights")


def test_a_failed_hook_is_named_with_its_words(
    library: Callable[..., Phx], sandbox: str, tmp_path: Path
) -> None:
    phx = library(
        hooky="""from: base
files:
  - path: /etc/philoxenia/roles/one/50-refuses
    mode: 0755
    content: |
      #!/bin/sh
      echo "the database of $PHX_NODE in $PHX_CLUSTER is not there"
      exit 7
"""
    )
    phx.run("build", "hooky")
    said = phx.run("up", one(tmp_path, "hooked", "hooky"), "--host", sandbox, status=1)
    assert "one-1 failed: hook /etc/philoxenia/roles/one/50-refuses: exit 7" in said.stderr
    assert "| the database of one-1 in hooked is not there" in said.stderr
    assert phx.nodes()["one-1"]["stage"] == "failed"
    phx.run("down", "hooked")


def test_a_node_that_never_reports_ends_the_wait_with_its_console(
    library: Callable[..., Phx], sandbox: str, tmp_path: Path
) -> None:
    phx = library(
        mute="""from: base
files:
  - path: /etc/systemd/system/philoxenia-agent.service.d/mute.conf
    content: |
      [Service]
      Type=simple
      ExecStart=
      ExecStart=/bin/sleep infinity
"""
    )
    phx.run("build", "mute")
    started = time.monotonic()
    said = phx.run(
        "up", one(tmp_path, "muted", "mute", deadline="25s"), "--host", sandbox, status=1
    )
    assert time.monotonic() - started < 40
    assert "1 of 1 nodes are not ready after 25 s" in said.stderr
    assert "one-1 hung after stage defined; the end of its console:" in said.stderr
    assert "login:" in said.stderr
    phx.run("down", "muted")


def test_a_guest_without_its_root_says_so_and_the_wait_ends_early(
    image: Phx, sandbox: str, tmp_path: Path
) -> None:
    """The base image is hidden from the host: QEMU cannot open the overlay, or the guest finds no root."""
    file = one(tmp_path, "rootless")
    process = image.start("up", file, "--host", sandbox)
    eventually(
        "the domain runs", lambda: image.nodes().get("one-1", {}).get("machine") == "running"
    )
    uri = f"qemu+unix:///system?socket=/run/philoxenia/{sandbox}/libvirt-sock"
    subprocess.run(["virsh", "-q", "-c", uri, "destroy", "rootless.one-1"], check=True)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "one-1 failed: its machine is off after stage defined" in err
    image.run("down", "rootless")


def test_the_host_goes_away_without_a_trace(image: Phx) -> None:
    name = f"u{os.getpid()}"
    before = Path("/proc/self/mounts").read_text()
    image.run("host", "up", name)
    assert f"host '{name}' runs" in image.run("host", "up", name).stdout
    image.run("host", "down", name)
    assert not Path(f"/run/netns/phx-{name}").exists()
    assert not Path(f"/run/philoxenia/{name}").exists()
    assert not (image.home / "hosts" / name).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/phx-{name}.partition"))
    assert Path("/proc/self/mounts").read_text() == before
    assert (
        f"philoxenia/{name}"
        not in subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout
    )
    assert f"no host '{name}'" in image.run("host", "show", name, status=2).stderr
