"""An emulated Xen host: from `phx host up --xen`, its image built, until Xen answers through libvirt; then the demo's
three PV guests from `phx up` to ready, with their images' first journey and without it.

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
    """The demo's cluster, and then another one of the same images."""
    terminal.report("three PV guests, their images' first journey included")
    first = _up("first", folder)
    terminal.report("three PV guests again, under another name")
    before, used = _received(), _cpu()
    second = _up("second", folder)
    moved, used = _received() - before, _cpu() - used
    file = str(folder / "second.yaml")
    again = timed(lambda: phx("up", file), 3)
    phx("down", "second")
    return [
        ("three PV guests, phx up to ready, first journey", first["whole"], NONE),
        ("  images on their way", first["image"], NONE),
        ("three PV guests, phx up to ready, images there", second["whole"], 150.0),
        ("  until the last one was started", second["started"], NONE),
        ("  waiting for libvirt", second["libvirt"], NONE),
        ("  waiting for commands and files by SSH", second["ssh"], NONE),
        ("  waiting for guests", second["guests"], NONE),
        ("  our own share", second["ours"], 5.0),
        ("  QEMU's seconds of CPU", used, NONE),
        ("MiB into the host for it, none of them of an image", moved / (1 << 20), NONE),
        ("phx up, nothing changed", again, NONE),
    ]


def _up(name: str, folder: Path) -> dict[str, float]:
    """Seconds by door, and until the last guest was started. The first cluster is gone afterwards."""
    file, told = folder / f"{name}.yaml", folder / f"{name}.json"
    file.write_text(FILE.read_text().replace("cluster: slurm", f"cluster: {name}", 1))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.doors", str(told), "up", str(file), "--host", HOST],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"phx up {file}: {done.stderr}")
    if name == "first":
        phx("down", name)
    elif " to host " in done.stderr:
        sys.exit(f"an image went to the host again:\n{done.stderr}")
    found: dict[str, float] = json.loads(told.read_text())
    found["started"] = max(
        float(t) for t in re.findall(r"^ *([0-9.]+)s \S+ started", done.stderr, re.M)
    )
    return found


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
