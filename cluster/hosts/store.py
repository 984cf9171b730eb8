"""A cluster's files on a host: one thin overlay disk and one seed per node, made whole or not at all.

STATE/CLUSTER/NODE.qcow2       over the image's disk.raw, which no guest writes
STATE/CLUSTER/NODE.seed.iso    readable by the guest's QEMU alone: it holds keys
RUN/CLUSTER/NODE.sock          the context channel
LOGS/CLUSTER/NODE.log          the console, as it was said
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from builder.errors import WorkFailed
from builder.run import run
from cluster import domain
from cluster.hosts.host import LOGS, QEMU_UID, RUN, STATE, Host
from contextualize.message import plain

NETWORK_STATE = PurePosixPath("/run/libvirt/network")
"""Where libvirt keeps a folder for each network that it ever started."""
QEMU_LOGS = PurePosixPath("/var/log/libvirt/qemu")
"""Where libvirt keeps each domain's QEMU command and complaints; it does not take them away."""


def disk(cluster: str, node: str) -> PurePosixPath:
    return STATE / cluster / f"{node}.qcow2"


def seed(cluster: str, node: str) -> PurePosixPath:
    return STATE / cluster / f"{node}.seed.iso"


def channel(cluster: str, node: str) -> PurePosixPath:
    return RUN / cluster / f"{node}.sock"


def log(cluster: str, node: str) -> PurePosixPath:
    return LOGS / cluster / f"{node}.log"


def prepare(host: Host, cluster: str) -> None:
    """The cluster's folders. Raises WorkFailed if they cannot be made."""
    try:
        for top, mode in ((STATE, 0o711), (RUN, 0o711), (LOGS, 0o700)):
            folder = host.outside(top) / cluster
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
            if top is not LOGS:
                os.chown(folder, QEMU_UID, QEMU_UID)
    except OSError as cause:
        raise WorkFailed(f"host '{host.name}': the cluster's folders cannot be made") from cause


def make_disk(host: Host, cluster: str, node: str, base: PurePosixPath, size: int) -> None:
    """A fresh overlay over `base`; one that was there is replaced. `size` in bytes, at least the base's."""
    path = host.outside(disk(cluster, node))
    aside = path.with_suffix(".new")
    # -u: the base is named as the host sees it, and need not be readable under that name from here.
    run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", str(base), str(aside), str(size)],
        timeout=60,
    )  # fmt: skip
    os.chown(aside, QEMU_UID, QEMU_UID)
    aside.chmod(0o600)
    aside.replace(path)


def rebase(overlay: Path, base: str) -> None:
    """Let the overlay name its base otherwise: the same bytes under another path."""
    argv = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, str(overlay)]
    run(argv, timeout=60)


def put_seed(host: Host, cluster: str, node: str, data: bytes) -> None:
    """Write the node's seed for QEMU's eyes only."""
    path = host.outside(seed(cluster, node))
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(data)
    os.chown(aside, QEMU_UID, QEMU_UID)
    aside.replace(path)


def remove_node(host: Host, cluster: str, node: str) -> None:
    """The node's disk, seed, channel and console log. Silent when they are gone."""
    ours = (disk(cluster, node), seed(cluster, node), channel(cluster, node), log(cluster, node))
    for inside in (*ours, QEMU_LOGS / f"{domain.name(cluster, node)}.log"):
        path = host.outside(inside)
        path.unlink(missing_ok=True)
        path.with_suffix(".new").unlink(missing_ok=True)


def remove_cluster(host: Host, cluster: str) -> None:
    for folder in (
        STATE / cluster,
        RUN / cluster,
        LOGS / cluster,
        NETWORK_STATE / f"phx-{cluster}",
    ):
        shutil.rmtree(host.outside(folder), ignore_errors=True)


def console_tail(host: Host, cluster: str, node: str, lines: int = 20) -> str:
    """The end of what the node's console said, made plain; "" before it said anything."""
    path: Path = host.outside(log(cluster, node))
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - max(16384, 200 * lines)))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(plain(text).splitlines()[-lines:])
