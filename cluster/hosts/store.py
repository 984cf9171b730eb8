"""A cluster's files on a host: one thin overlay disk and one seed per node, made whole or not at all.

STATE/CLUSTER/NODE.qcow2       over the image's disk.raw, which no guest writes
STATE/CLUSTER/NODE.seed.iso    readable by the guest's QEMU alone: it holds keys
RUN/CLUSTER/NODE.sock          the context channel
LOGS/CLUSTER/NODE.log          the console, as it was said
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from builder.run import run
from cluster import domain
from cluster.hosts.host import LOGS, RUN, STATE
from cluster.hosts.reach import Reach
from contextualize.message import plain

NETWORK_STATE = PurePosixPath("/run/libvirt/network")
"""Where libvirt keeps a folder for each network that it ever started."""
XEN_CONSOLES = PurePosixPath("/var/log/xen/console")
QEMU_LOGS = PurePosixPath("/var/log/libvirt/qemu")
"""Where libvirt keeps each domain's QEMU command and complaints; it does not take them away."""


def kernel(virtualization: str) -> str:
    """The file of an image's folder that boots such a guest."""
    return "vmlinuz.packed" if virtualization == "hvm" else "vmlinuz"


def disk(cluster: str, node: str) -> PurePosixPath:
    return STATE / cluster / f"{node}.qcow2"


def seed(cluster: str, node: str) -> PurePosixPath:
    return STATE / cluster / f"{node}.seed.iso"


def channel(cluster: str, node: str) -> PurePosixPath:
    return RUN / cluster / f"{node}.sock"


def log(cluster: str, node: str) -> PurePosixPath:
    return LOGS / cluster / f"{node}.log"


def console(reach: Reach, cluster: str, node: str) -> PurePosixPath:
    """Where the host keeps what the node's console said. Xen's xenconsoled has a file of its own for each guest."""
    if reach.host.driver == "xen":
        return XEN_CONSOLES / f"guest-{domain.name(cluster, node)}.log"
    return log(cluster, node)


def prepare(reach: Reach, cluster: str) -> None:
    """The cluster's folders. Raises WorkFailed if they cannot be made."""
    guests = reach.host.owner
    reach.folders(
        (STATE / cluster, 0o711, guests), (RUN / cluster, 0o711, guests), (LOGS / cluster, 0o700, 0)
    )


@contextlib.contextmanager
def made_disk(
    reach: Reach, cluster: str, node: str, folder: PurePosixPath, size: int
) -> Iterator[Path]:
    """A fresh overlay over the image in `folder`, to be changed here by whoever asks; it is the node's disk afterwards,
    in the place of one that was there.

    folder  as the host sees it
    size    in bytes, at least the image's
    """
    base = str(folder / "disk.raw")
    with tempfile.TemporaryDirectory(prefix="phx-disk-") as work:
        made = Path(work) / f"{node}.qcow2"
        # -u: the base is named as the host sees it, and need not be readable under that name from here.
        argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base]
        run([*argv, str(made), str(size)], timeout=60)
        yield made
        reach.put(made, disk(cluster, node), 0o600, reach.host.owner)


def rebase(overlay: Path, base: str) -> None:
    """Let the overlay name its base otherwise: the same bytes under another path."""
    argv = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, str(overlay)]
    run(argv, timeout=60)


def put_seed(reach: Reach, cluster: str, node: str, data: bytes) -> None:
    """Write the node's seed for QEMU's eyes only."""
    reach.write(seed(cluster, node), data, 0o400, reach.host.owner)


def remove_nodes(reach: Reach, cluster: str, *nodes: str) -> None:
    """The nodes' disks, seeds, channels and console logs. Silent when they are gone."""
    reach.remove(
        *(path for node in nodes for path in (
            disk(cluster, node), seed(cluster, node), channel(cluster, node),
            log(cluster, node), console(reach, cluster, node),
            QEMU_LOGS / f"{domain.name(cluster, node)}.log",
        ))
    )  # fmt: skip


def remove_cluster(reach: Reach, cluster: str) -> None:
    tops = (STATE / cluster, RUN / cluster, LOGS / cluster, NETWORK_STATE / f"phx-{cluster}")
    reach.remove(*tops)


def console_tail(reach: Reach, cluster: str, node: str, lines: int = 20) -> str:
    """The end of what the node's console said, made plain; "" before it said anything."""
    said = reach.tail(console(reach, cluster, node), max(16384, 200 * lines))
    return "\n".join(plain(said.decode(errors="replace")).splitlines()[-lines:])
