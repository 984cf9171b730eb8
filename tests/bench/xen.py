"""An emulated Xen host: from `phx host up --xen`, its image built, until Xen answers through libvirt; then the demo's
three PV guests from `phx up` to ready, and how much of that is their images' first journey.

Seconds depend on who else has the cores; the seconds of CPU that QEMU took do so much less. "Our own share" is the
time in which phx waited neither for libvirt nor for SSH nor for guests: see doors.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builder.terminal import Terminal
from cluster.demo import FILE
from tests.bench import NONE, PHX, phx, show, timed

HOST = f"bench{os.getpid()}"
ONE = """\
cluster: bench1
deadline: 30m
roles:
  head:
    image: slurm-head
    cpu: {guarantee: 0.4, limit: 1}
    memory: 384M
    network: {guarantee: 20Mbit, limit: 100Mbit}
"""
Rows = list[tuple[str, float, float]]


def measure(terminal: Terminal) -> None:
    terminal.report("building what is missing")
    phx("build", "xen-host", "slurm-head", "mpi")
    terminal.report("one Xen host")
    try:
        rows = _host()
        with tempfile.TemporaryDirectory() as name:
            rows += _guests(terminal, Path(name))
    finally:
        subprocess.run([PHX, "host", "down", HOST, "--force"], capture_output=True, check=False)
    show(terminal, rows)


def _host() -> Rows:
    """As `make demo-xen` has it."""
    started = time.monotonic()
    done = subprocess.run(
        [PHX, "host", "up", "--xen", HOST, "--memory", "5G", "--cores", "3"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    whole = time.monotonic() - started
    kernel = {
        word: float(t) for word, t in re.findall(r" (booted|healthy) \(([0-9.]+) s", done.stderr)
    }
    [booted] = re.findall(r"^ *([0-9.]+)s \S+ booted", done.stderr, re.M)
    [at] = re.findall(r"^ *([0-9.]+)s \S+ boots", done.stderr, re.M)
    return [
        ("phx host up --xen to libvirt's answer", whole, 60.0),
        ("  until QEMU starts", float(at), NONE),
        ("  Xen, until dom0's kernel starts", float(booted) - float(at) - kernel["booted"], NONE),
        ("  dom0, until it knows who it is", kernel["booted"], NONE),
        ("  sshd and libvirt", kernel["healthy"] - kernel["booted"], NONE),
        ("QEMU's seconds of CPU", _cpu(), NONE),
        ("phx host up --xen, running already", timed(lambda: phx("host", "up", HOST), 3), NONE),
    ]


def _guests(terminal: Terminal, folder: Path) -> Rows:
    """The demo's cluster; and then one guest more, of another cluster, of an image that is there."""
    terminal.report("three PV guests, their images' journey included")
    text = FILE.read_text().replace("cluster: slurm", "cluster: bench3", 1)
    # A machine that others use as well is slow, not broken.
    text = text.replace("deadline: 10m", "deadline: 30m").replace(
        "hook_limit: 60s", "hook_limit: 10m"
    )
    used = _cpu()
    three = _up(folder, "bench3", text)
    used, again = _cpu() - used, timed(lambda: phx("up", str(folder / "bench3.yaml")), 3)
    phx("down", "bench3")
    terminal.report("one guest of an image that is there")
    before = _received()
    one = _up(folder, "bench1", ONE)
    moved = _received() - before
    phx("down", "bench1")
    return [
        ("three PV guests, phx up to ready, images included", three["whole"], NONE),
        ("  images on their way", three["image"], NONE),
        ("  the rest: with images that are there", three["whole"] - three["image"], 150.0),
        ("    until the last one was started", three["started"] - three["image"], NONE),
        ("    waiting for libvirt", three["libvirt"], NONE),
        ("    waiting for commands and files by SSH", three["ssh"], NONE),
        ("    waiting for guests", three["guests"], NONE),
        ("    our own share", three["ours"], 5.0),
        ("QEMU's seconds of CPU for it", used, NONE),
        ("phx up, nothing changed", again, NONE),
        ("another cluster of such an image, one guest", one["whole"], NONE),
        ("  of it images on their way", one.get("image", 0.0), NONE),
        ("  MiB into the host, its disk and seed", moved / (1 << 20), NONE),
    ]


def _up(folder: Path, name: str, text: str) -> dict[str, float]:
    """Launch the cluster; seconds by door, and until its last guest was started."""
    file, told = folder / f"{name}.yaml", folder / f"{name}.json"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.doors", str(told), "up", str(file), "--host", HOST],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"phx up {file}: {done.stderr}")
    found: dict[str, float] = json.loads(told.read_text())
    stamps = re.findall(r"^ *([0-9.]+)s \S+ started", done.stderr, re.M)
    return {**found, "started": max(map(float, stamps))}


def _received() -> int:
    """Bytes that came into dom0 so far."""
    [host] = [h for h in json.loads(phx("host", "ls", "--json")) if h["name"] == HOST]
    argv = ["ssh", "-F", host["ssh"], HOST, "cat /sys/class/net/eth0/statistics/rx_bytes"]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def _cpu() -> float:
    """Of the host's QEMU, whose disk lies in the host's folder."""
    [host] = [h for h in json.loads(phx("host", "ls", "--json")) if h["name"] == HOST]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{host['folder']}/disk.qcow2".encode() in (entry / "cmdline").read_bytes():
                user, kernel = (entry / "stat").read_text().rpartition(")")[2].split()[11:13]
                return (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return NONE
