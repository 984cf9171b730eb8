"""Nodes of images in which nobody applies a context: it is written into their disks, and they are watched from outside.

Their disk is changed through libguestfs before the domain is defined, 9 s under emulation, one node at a time: each
change is a machine. Nobody in them reports, so such a node counts as healthy when its sshd answers in the host's
network with the host key that was written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from builder.document import Document
from builder.errors import PhiloxeniaError, Problem, WorkFailed
from builder.images.inside.interior import Interior
from builder.images.manifest import Manifest
from builder.plan import Report as Tell
from cluster.deploy import Inscribe
from cluster.hosts import store
from cluster.hosts.reach import Reach
from cluster.plan import ClusterPlan, NodePlan
from contextualize import offline
from contextualize.declared import Declared
from contextualize.message import Report

PATIENCE = 3
"""Seconds that a node's sshd has for its greeting and key, each time it is asked."""
PAUSE = 1.0


def flaws(
    images: Mapping[str, Manifest], declared: Mapping[str, Declared], document: Document
) -> list[Problem]:
    """What roles ask of images that cannot do it. `images` is by role."""
    found = []
    for role, image in images.items():
        if image.contextualization != "none":
            continue
        place, says = ("roles", role), declared[role]
        whose = f"image {image.name} has neither our agent nor cloud-init"
        if image.network not in offline.NETWORKS:
            what = f"{whose}, and its network is configured by something unknown"
            hint = f"known: {', '.join(offline.NETWORKS)}; install one with phx image customize"
            found.append(document.problem((*place, "image"), what, hint))
        if says.requires or says.provides or says.probes:
            what = f"{whose}, so the role can neither require nor provide anything"
            found.append(document.problem(place, what, "take an image with cloud-init"))
    return found


def inscriber(
    plan: ClusterPlan, images: Mapping[str, Manifest], home: Path, tell: Tell
) -> Inscribe:
    """For the nodes of a plan. `images` is by role."""
    alone = threading.Lock()

    def inscribe(node: NodePlan, overlay: Path) -> None:
        image = images[node.machine.role]
        if image.contextualization != "none":
            return
        from builder.images.inside.door import Door

        door = Door(home, tell)
        base = PurePosixPath(node.machine.kernel).with_name("disk.raw")
        seed = plan.documents.seed(node.name, plan.documents.document(node.name))
        with alone:
            tell(f"{node.name}: its context is written into its disk")
            # The overlay names its base as the host sees it; libguestfs works here.
            store.rebase(overlay, str(door.catalog.folder(image) / "disk.raw"))
            with door.changing(overlay, "qcow2") as inside:
                inside.enter(image.mounts)
                apply(offline.changes(seed, image.network), inside)
            store.rebase(overlay, str(base))

    return inscribe


def apply(changes: offline.Changes, inside: Interior) -> None:
    """Make the changes; made twice, they are the same."""
    for folder, begin in changes.cleared:
        with contextlib.suppress(WorkFailed):  # there is no such folder
            for entry in inside.list(folder):
                if entry.name.startswith(begin) and entry.kind in ("file", "link"):
                    inside.remove(f"{folder}/{entry.name}")
    for file in changes.files:
        inside.write(file.path, file.data, file.mode, file.owner)
    for path, target in changes.links:
        inside.link(path, target)


class Outside:
    """Asks the sshd of nodes for their host keys, in a thread of its own; `heard` gives what agents would have said.

    keys    node -> (address, host key as in known_hosts: "ssh-ed25519 AAAA...")
    digest  node -> digest of the context that was written
    """

    def __init__(
        self, reach: Reach, keys: Mapping[str, tuple[str, str]], digest: Callable[[str], str]
    ) -> None:
        self._reach, self._keys, self._digest = reach, dict(keys), digest
        self._started = time.monotonic()
        self._answers: dict[str, str] = {}
        self._told: set[str] = set()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="outside", daemon=True)

    def __enter__(self) -> Outside:
        if self._keys:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._keys:
            self._thread.join()

    def heard(self) -> list[Report]:
        """What is new since the last time."""
        with self._lock:
            new = {n: key for n, key in self._answers.items() if n not in self._told}
        self._told |= new.keys()
        at = round(time.monotonic() - self._started, 1)
        return [
            said for node, key in sorted(new.items())
            for said in reports(node, self._keys[node][1], key, self._digest(node), at)
        ]  # fmt: skip

    def forget(self, node: str) -> None:
        """Its machine is made anew: it is asked again."""
        with self._lock:
            self._answers.pop(node, None)
        self._told.discard(node)

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            silent = {n: a for n, (a, _) in self._keys.items() if n not in self._answers}
            if silent:
                found = answering(self._reach, silent)
                with self._lock:
                    self._answers |= found


def answering(reach: Reach, addresses: Mapping[str, str]) -> dict[str, str]:
    """Node -> the ed25519 host key with which its sshd greets; those that do not answer are missing."""
    scan = f'ssh-keyscan -T {PATIENCE} -t ed25519 "$@" || :'  # it fails where one of many does not answer
    try:
        said = reach.run(
            ["sh", "-c", scan, "scan", *addresses.values()], timeout=PATIENCE * (len(addresses) + 2)
        )
    except PhiloxeniaError:
        return {}
    keys = {
        words[0]: " ".join(words[1:3])
        for line in said.splitlines()
        if len(words := line.split()) >= 3
    }
    return {node: keys[address] for node, address in addresses.items() if address in keys}


def reports(node: str, key: str, answer: str, digest: str, at: float) -> list[Report]:
    """What an agent would have said. A failure when the key is not the one that was written."""
    if answer != key:
        what = f"{node} answers with another host key than was written into its disk"
        return [Report(node, "outside", 1, "failed", at, what)]
    return [
        Report(node, "outside", 1, "booted", at),
        Report(node, "outside", 2, "healthy", at, context=digest),
    ]
