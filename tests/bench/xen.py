"""An emulated Xen host: from `phx host up --xen`, its image built, until Xen answers through libvirt.

Seconds depend on who else has the cores; the seconds of CPU that QEMU took do so much less.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

from builder.terminal import Terminal
from tests.bench import NONE, PHX, phx, show, timed

HOST = f"bench{os.getpid()}"


def measure(terminal: Terminal) -> None:
    terminal.report("building what is missing")
    phx("build", "xen-host")
    terminal.report("one Xen host")
    started = time.monotonic()
    try:
        done = subprocess.run(
            [PHX, "host", "up", "--xen", HOST, "--memory", "4G"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        whole = time.monotonic() - started
        kernel = {
            word: float(t)
            for word, t in re.findall(r" (booted|healthy) \(([0-9.]+) s", done.stderr)
        }
        [booted] = re.findall(r"^ *([0-9.]+)s \S+ booted", done.stderr, re.M)
        [at] = re.findall(r"^ *([0-9.]+)s \S+ boots", done.stderr, re.M)
        rows = [
            ("phx host up --xen to libvirt's answer", whole, 60.0),
            ("  until QEMU starts", float(at), NONE),
            (
                "  Xen, until dom0's kernel starts",
                float(booted) - float(at) - kernel["booted"],
                NONE,
            ),
            ("  dom0, until it knows who it is", kernel["booted"], NONE),
            ("  sshd and libvirt", kernel["healthy"] - kernel["booted"], NONE),
            ("QEMU's seconds of CPU", _cpu(), NONE),
            ("phx host up --xen, running already", timed(lambda: phx("host", "up", HOST), 3), NONE),
        ]
    finally:
        subprocess.run([PHX, "host", "down", HOST, "--force"], capture_output=True, check=False)
    show(terminal, rows)


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
