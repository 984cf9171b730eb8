"""A host as a value: where its libvirt listens, where its files lie for it and for us, how much it keeps for itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from contextualize.context import relay

Kind = Literal["sandbox", "xen", "libvirt"]
"""A libvirtd of our own in namespaces, a Xen of our own under QEMU, or a libvirt that was there before us."""
STATE = PurePosixPath("/var/lib/libvirt/philoxenia")
RUN = PurePosixPath("/run/libvirt/philoxenia")
LOGS = PurePosixPath("/var/log/libvirt/philoxenia")
IMAGES = PurePosixPath("/var/lib/libvirt/images")
QEMU_UID = 64055
"""libvirt-qemu's user and group in every Debian (fixed by policy); guests run as it."""


@dataclass(frozen=True, slots=True)
class Host:
    """name      unique on this machine
    uri       libvirt's address of it
    folder    its own folder here; "" for a libvirt of this machine that was there before us
    run       where its sockets are: short, since a socket's path has 107 bytes
    netns     name of the network namespace that it lives in; "" for ours
    cpu, memory, network  what it has (thousandths of a core, bytes, bit/s), less what it keeps for itself
    accelerator  kvm or qemu; "" until a boot probe has decided
    ssh       the ssh_config(5) by which OpenSSH reaches the host under its name; "" for this machine
    driver    of its libvirt
    cpus      the CPUs of the machine that a sandbox's guests run on, as in 0-1; "" for all
    cgroup    version of its cgroups: CPU weights have another scale in each
    offers    pv, pvh, hvm: what guests can be on a Xen host
    hook      whether its libvirt holds a guest to its promises at each start, whoever starts it (hook.py)
    """

    name: str
    kind: Kind
    uri: str
    folder: str
    run: str
    netns: str
    cpu: int
    memory: int
    network: int
    accelerator: str = ""
    partition: str = ""
    catalog: str = ""
    ssh: str = ""
    driver: Literal["qemu", "xen"] = "qemu"
    cpus: str = ""
    cgroup: Literal[1, 2] = 1
    offers: tuple[str, ...] = ()
    hook: bool = False

    def outside(self, inside: PurePosixPath) -> Path:
        """Our path of a file that the host's libvirt calls `inside`."""
        if not self.folder or self.ssh:
            return Path(inside)
        for top, real in (
            (PurePosixPath("/run/libvirt"), Path(self.run)),
            (IMAGES, Path(self.catalog)),
            (PurePosixPath("/var/lib/libvirt"), Path(self.folder) / "lib"),
            (PurePosixPath("/var/log/libvirt"), Path(self.folder) / "log"),
        ):
            if inside.is_relative_to(top):
                return real / inside.relative_to(top)
        raise ValueError(f"{inside} is not one of a host's folders")

    @property
    def owner(self) -> int:
        """User and group of its guests' files: Xen's QEMU runs as root, libvirt's own as a user of its own."""
        return 0 if self.driver == "xen" else QEMU_UID

    def image(self, digest: str) -> PurePosixPath:
        """The folder of an image as its libvirt sees it. `digest` is the image's id."""
        if self.ssh:
            return IMAGES / "philoxenia" / digest[:16]
        return (IMAGES if self.folder else PurePosixPath(self.catalog)) / digest[:16]

    def proxy(self) -> str:
        """The command by which ssh (which fills in %h and %p) reaches a guest; "" where it needs none."""
        if self.ssh:
            return f"ssh -F {shlex.quote(self.ssh)} -W %h:%p {self.name}"
        return relay(" ".join(self.enter())) if self.netns else ""

    def enter(self) -> list[str]:
        """The start of a command line that runs in the host's network."""
        return ["nsenter", f"--net=/run/netns/{self.netns}"] if self.netns else []


def cpu_list(text: str) -> frozenset[int]:
    """The CPUs that a list names, as taskset(1) and the kernel's cpusets read it. ValueError for any other text.

    >>> sorted(cpu_list("0-2,5"))
    [0, 1, 2, 5]
    """
    found: set[int] = set()
    for part in text.split(","):
        span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise ValueError(f"'{text}' is not a list of CPUs; write one as in 0-1 or 0,2")
        found.update(range(int(span[1]), int(span[2] or span[1]) + 1))
    return frozenset(found)


def cpu_text(cpus: Collection[int]) -> str:
    """The shortest list that `cpu_list` reads back.

    >>> cpu_text({0, 1, 2, 5})
    '0-2,5'
    """
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
