"""What this machine has of what the work needs, each with its remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `remedy` is empty when it is there."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


PROGRAMS = (
    ("libvirtd", "libvirt-daemon"), ("virtlogd", "libvirt-daemon"), ("virsh", "libvirt-clients"),
    ("dnsmasq", "dnsmasq-base"),
    ("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"), ("apt-get", "apt"),
    ("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux"), ("unshare", "util-linux"),
    ("ssh", "openssh-client"),
)  # fmt: skip
MODULES = (("libvirt", "python3-libvirt"), ("guestfs", "python3-guestfs"))


def examine(home: Path) -> list[Check]:
    """Every check, whatever failed before it. Changes nothing."""
    checks = _root()
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program, package in PROGRAMS:
        where = shutil.which(program, path=path)
        checks.append(
            Check(
                program,
                where is not None,
                where or "-",
                "" if where else f"apt-get install {package}",
            )
        )
    for module, package in MODULES:
        there = importlib.util.find_spec(module) is not None
        remedy = (
            ""
            if there
            else f"apt-get install {package}, then make setup: it links the module into .venv"
        )
        checks.append(Check(f"python {module}", there, "importable" if there else "-", remedy))
    checks.append(_mirror())
    checks.append(_room(home))
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    checks.append(
        Check("accelerator", True, "/dev/kvm opens; phx up boots a probe before it is trusted" if kvm
              else "none: guests run under emulation")
    )  # fmt: skip
    overlay = "overlay" in Path("/proc/filesystems").read_text()
    checks.append(
        Check(
            "overlayfs",
            overlay,
            "in the kernel" if overlay else "-",
            "" if overlay else "modprobe overlay",
        )
    )
    return checks


def _root() -> list[Check]:
    """Root has every right. For another, whether builds work without: by trying."""
    from builder.errors import EnvironmentLacks
    from builder.rights import rights

    if os.geteuid() == 0:
        return [Check("root", True, "uid 0")]
    who = f"uid {os.geteuid()}"
    checks = [Check("root", False, who, "hosts and clusters: run phx with sudo")]
    try:
        rights()
    except EnvironmentLacks as cause:
        return [
            *checks,
            Check("builds without root", False, cause.what.partition(": ")[2], cause.hint),
        ]
    return [
        *checks,
        Check("builds without root", True, "tried: user namespace, lent ids, overlayfs"),
    ]


def _mirror() -> Check:
    from builder.errors import EnvironmentLacks
    from builder.packages import facts

    try:
        found = facts.sources("bookworm")
    except EnvironmentLacks as cause:
        return Check("mirror", False, "-", cause.hint)
    return Check(
        "mirror",
        True,
        f"{found.count('Types:')} sources of Debian bookworm in apt's configuration",
    )


def _room(home: Path) -> Check:
    there = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(there).free
    enough = free > 5 << 30
    return Check(
        "disk",
        enough,
        f"{free >> 30} GiB free in {home}",
        "" if enough else "5 GiB are needed; PHX_HOME names another folder",
    )
