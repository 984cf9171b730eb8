"""What must be known of a system that we did not build, from names and texts in it: how it boots, who configures it."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import WorkFailed
from builder.images.inside.interior import Entry, Readable, System

AGENT = "/usr/lib/philoxenia", "agent.py"
_NETWORK = (
    ("netplan", ("/usr/sbin", "netplan")),
    ("ifupdown", ("/usr/sbin", "ifup")),
    ("ifupdown", ("/sbin", "ifup")),
    ("networkd", ("/usr/lib/systemd", "systemd-networkd")),
    ("networkd", ("/lib/systemd", "systemd-networkd")),
)
"""Who reads the network's configuration, and what shows that it is there; the first that is found."""
_DATED = (("/var/lib/dpkg", "status"), ("/usr/lib/sysimage/rpm", "rpmdb.sqlite"),
          ("/var/lib/rpm", "rpmdb.sqlite"), ("/var/lib/rpm", "Packages"))  # fmt: skip
"""Files that change whenever a package does."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Paths of the kernel and of its initrd, and the kernel's version."""

    kernel: str
    initrd: str
    version: str


def boot(names: Iterable[str]) -> Boot:
    """The newest kernel of /boot that has an initrd. WorkFailed when there is none.

    >>> boot(["vmlinuz-6.9", "vmlinuz-6.10", "vmlinuz-6.11", "initrd.img-6.9", "initrd.img-6.10"])
    Boot(kernel='/boot/vmlinuz-6.10', initrd='/boot/initrd.img-6.10', version='6.10')
    """
    there = set(names)
    found = []
    for name in there:
        version = name.removeprefix("vmlinuz-")
        if version == name or "rescue" in version:
            continue
        for initrd in (f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}",
                       f"initrd-{version}.img", f"initramfs-{version}"):  # fmt: skip
            if initrd in there:
                found.append(Boot(f"/boot/{name}", f"/boot/{initrd}", version))
    if not found:
        seen = ", ".join(sorted(there)) or "nothing"
        raise WorkFailed(
            f"no kernel with an initrd in /boot; there is: {seen}",
            "guests are started from both, so they must be in the image",
        )
    return max(found, key=lambda b: _natural(b.version))


def _natural(version: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version)
    ]


def root(system: System) -> str:
    """Kernel parameters that name its root."""
    device = system.mounts[0][1]
    if device.startswith("btrfsvol:"):
        device, _, volume = device.removeprefix("btrfsvol:").rpartition("/")
        return f"root={device} rootflags=subvol={volume}"
    return f"root={device}" if device.startswith("/dev/vda") else f"root=UUID={system.uuid}"


def parameters(grub: str) -> str:
    """The kernel parameters of /etc/default/grub that are not the console's, the screen's or the root's.

    >>> parameters('GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"\\nGRUB_CMDLINE_LINUX="net.ifnames=0 console=tty0"')
    'net.ifnames=0'
    """
    words = []
    for name in ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"):
        for text in re.findall(rf"^\s*{name}=(.*)$", grub, re.M):
            with contextlib.suppress(ValueError):
                words += " ".join(shlex.split(text, comments=True)).split()
    ours = re.compile(r"console=|earlyprintk|root=|rootflags=|ro$|rw$|quiet$|splash$|rhgb$|vga=|\$")
    return " ".join(word for word in dict.fromkeys(words) if not ours.match(word))


def entry(inside: Readable, folder: str, name: str) -> Entry | None:
    """What is called so in that folder."""
    with contextlib.suppress(WorkFailed):
        return next((e for e in inside.list(folder) if e.name == name), None)
    return None


def has_agent(inside: Readable) -> bool:
    return entry(inside, *AGENT) is not None


def network(inside: Readable) -> str:
    """Who configures its network: netplan, ifupdown or networkd; "" for others."""
    return next((who for who, place in _NETWORK if entry(inside, *place)), "")


def dated(inside: Readable) -> int:
    """When its packages last changed, in seconds since 1970; 0 when nothing tells."""
    return max((e.mtime for place in _DATED if (e := entry(inside, *place))), default=0)
