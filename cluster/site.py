"""A `Site` is one home folder: its ledger, its catalog, its hosts; and what is kept there of each cluster."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from builder.errors import EnvironmentLacks, InputError, Problem, close
from builder.images.catalog import Catalog
from builder.plan import Report
from cluster.hosts import sandbox, xenhost
from cluster.hosts.host import Host
from cluster.hosts.hypervisor import Libvirt
from cluster.hosts.local import Here
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.ledger import ClusterRow, Ledger, NodeRow

DEFAULT_HOST = "local"
DEFAULT_NETWORK = 1_000_000_000
"""bit/s that a sandbox's private networks promise together, unless --network says otherwise."""


class Site:
    """One home folder. Opening it costs a SQLite file and no connection."""

    def __init__(self, home: Path, user: str = "") -> None:
        """`user` is who works here: what is launched goes on their account unless the cluster file says another."""
        self.home = home
        self.user = user
        self.ledger = Ledger(home)
        self.catalog = Catalog(home / "images")
        self._connections: dict[str, Libvirt] = {}
        self._ways: dict[str, Reach] = {}

    def files(self, cluster: str) -> Path:
        """Where a cluster's ssh_config, known_hosts and operator key lie."""
        return self.home / "clusters" / cluster

    @contextlib.contextmanager
    def locked(self, name: str, report: Report) -> Iterator[None]:
        """Hold the lock `name`, "launch" or a cluster's; says so when another phx has it."""
        with self._lock(name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                does = {
                    "launch": "launches or removes a cluster",
                    "tick": "makes scheduled changes",
                }
                report(f"waiting for another phx that {does.get(name, f'changes {name}')}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def free(self, name: str) -> Iterator[bool]:
        """Hold the lock if no other phx has it; whether it is held now."""
        with self._lock(name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _lock(self, name: str) -> TextIO:
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / name).open("w")

    def connect(self, host: Host) -> Hypervisor:
        """EnvironmentLacks, saying how to start it, if the host does not answer."""
        if host.kind == "sandbox" and not sandbox.alive(host):
            raise EnvironmentLacks(f"host '{host.name}' does not run", f"phx host up {host.name}")
        if host.kind == "xen" and not xenhost.alive(Path(host.folder)):
            raise EnvironmentLacks(f"host '{host.name}' does not run", f"phx host up {host.name}")
        if not host.ssh:
            return Libvirt(host.uri)
        # Another connection to a host over SSH is another libvirt client started there: 3 s of an emulated one.
        held = self._connections.get(host.name)
        if held is None or not held.connected():
            held = self._connections[host.name] = Libvirt(host.uri, held=True)
        return held

    def reach(self, host: Host) -> Reach:
        """The way to its files, commands and sockets. EnvironmentLacks if the host does not answer."""
        if host.ssh:
            from cluster.hosts.remote import There

            return self._ways.setdefault(host.name, There(host, held=True))
        return Here(host)

    def uses_uplink(self, host: str) -> list[str]:
        """Clusters on the host whose file says `uplink: true`: one at most, since a device is a port of one bridge."""
        rows = (c for c in self.ledger.clusters() if c.host == host and c.spec)
        return [c.name for c in rows if json.loads(c.spec).get("uplink")]

    def start_host(self, name: str, bandwidth: int | None = None, cpus: str | None = None) -> Host:
        """A sandbox host, running and in the ledger. Without `bandwidth` and `cpus` it keeps what it had."""
        known = {h.name: h for h in self.ledger.hosts()}
        if name in known and known[name].kind != "sandbox":
            what = f"host '{name}' is {known[name].uri}, not a sandbox"
            raise InputError(Problem("", what, "choose another name"))
        kept = known[name].network if name in known else DEFAULT_NETWORK
        on = known[name].cpus if name in known else ""
        if cpus not in (None, on) and name in known and sandbox.alive(known[name]):
            what = f"host '{name}' runs on the CPUs {on or 'that there are'}"
            raise InputError(Problem("--cpus", what, f"phx host down {name} first"))
        host = sandbox.up(
            name, self.home, self.catalog.root, bandwidth or kept, on if cpus is None else cpus
        )
        if name in known:
            host = replace(host, accelerator=known[name].accelerator)
        self.ledger.put_host(host)
        return host


def forget(site: Site, cluster: str) -> None:
    """Remove what we keep of a cluster that is gone: its keys and its lines in the ledger."""
    shutil.rmtree(site.files(cluster), ignore_errors=True)
    site.catalog.release(f"cluster {cluster}")
    site.ledger.books.release(cluster)
    site.ledger.drop_cluster(cluster)


def node_of(site: Site, name: str) -> tuple[ClusterRow, NodeRow]:
    """A node by NODE, or CLUSTER/NODE where two clusters have one of that name. InputError otherwise."""
    cluster, slash, node = name.rpartition("/")
    rows = [site.ledger.cluster(cluster)] if slash else site.ledger.clusters()
    found = [(c, n) for c in rows for n in site.ledger.nodes(c.name) if n.name == node]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{c.name}/{n.name}" for c, n in found)
        raise InputError(
            Problem("", f"{len(found)} nodes are called '{node}'", f"say which: {names}")
        )
    known = [n.name for c in rows for n in site.ledger.nodes(c.name)]
    hint = close(node, known) if known else "there is no cluster: phx up CLUSTER.yaml"
    raise InputError(Problem("", f"no node '{name}'", hint))
