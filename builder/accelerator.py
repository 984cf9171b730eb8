"""Whether hardware virtualization really boots a guest here, found out by booting one.

/dev/kvm may open, create a virtual machine and run its firmware, and still never boot a Linux kernel (libvirt.md, 1).
So a guest of nothing but a kernel and our initrd must print its line within PATIENCE seconds. The answer is
kept per kernel and QEMU of the host, since a probe that fails takes all of its time.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

from builder.errors import EnvironmentLacks, PhiloxeniaError
from builder.images.initrd import PROBE
from builder.run import run

PATIENCE = 8.0
QEMU = "qemu-system-x86_64"


def choose(kernel: Path, initrd: Path, memory: Path) -> str:
    """ "kvm" or "qemu" (emulation).

    kernel, initrd  of any image of ours
    memory          a file that remembers the answer
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu"
    qemu = shutil.which(QEMU) or ""
    if not qemu:
        raise EnvironmentLacks(f"the program {QEMU} is missing", "apt-get install qemu-system-x86")
    key = f"{platform.release()} {Path(qemu).stat().st_mtime_ns}"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = "kvm" if boots("kvm", kernel, initrd) else "qemu"
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(known) + "\n")
    return str(known[key])


def boots(accelerator: str, kernel: Path, initrd: Path, patience: float = PATIENCE) -> bool:
    """Whether a guest under `accelerator` (kvm, tcg) prints its line within `patience` seconds."""
    cpu = "host" if accelerator == "kvm" else "qemu64"
    argv = [
        QEMU, "-accel", accelerator, "-cpu", cpu, "-m", "192", "-nodefaults", "-display", "none",
        "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "console=ttyS0 panic=-1 phx.probe",
    ]  # fmt: skip
    try:
        return PROBE in run(argv, timeout=patience, check=False).text
    except PhiloxeniaError:
        return False
