"""Hosts started and stopped, others registered: each in the ledger once it has answered, and never half."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from builder.errors import (
    CommandFailed,
    EnvironmentLacks,
    InputError,
    PhiloxeniaError,
    Problem,
    WorkFailed,
    close,
)
from builder.images.manifest import Manifest
from builder.plan import Report
from cluster.guarantee import Cgroup
from cluster.hosts import facts, hooked, sandbox, ssh, xenhost
from cluster.hosts.facts import HostFacts
from cluster.hosts.host import Host
from cluster.hosts.hypervisor import Libvirt

if TYPE_CHECKING:
    from cluster.site import Site

Driver = Literal["qemu", "xen"]
PATIENCE = 10.0
"""Seconds that a host has to say that it is there: an emulated one that is busy takes two or three."""
KEPT = 1 << 30
"""Bytes that a machine keeps whose guests are its processes."""
PROGRAMS = {
    "qemu": (("tc", "iproute2"), ("qemu-img", "qemu-utils"), ("python3", "python3")),
    "xen": (("tc", "iproute2"), ("qemu-img", "qemu-utils"), ("python3", "python3"),
            ("xenstore-write", "xenstore-utils")),
}  # fmt: skip
"""Driver -> what guests of a machine reached by SSH are made and held with, and the Debian package of each."""


def start_xen(
    site: Site, name: str, image: Manifest, bandwidth: int | None, report: Report,
    memory: int | None = None, cores: int | None = None, disk: int | None = None,
) -> Host:  # fmt: skip
    """An emulated Xen host, running and in the ledger. Without `bandwidth` it keeps what it had. Raises what
    `xenhost.up` raises, and InputError when the name is another kind of host's.
    """
    from cluster.site import DEFAULT_NETWORK

    known = {h.name: h for h in site.ledger.hosts()}.get(name)
    if known is not None and known.kind != "xen":
        what = f"host '{name}' is {known.uri}, no emulated Xen host"
        raise InputError(Problem("", what, "choose another name"))
    with site.locked(f"host-{name}", report):
        kept = known.network if known else DEFAULT_NETWORK

        def begun(host: Host) -> None:
            if known is None:
                site.ledger.put_host(replace(host, network=kept))

        host, told = xenhost.up(
            name, site.home, site.catalog, image, report, memory, cores, disk, begun
        )
        cpu, room = facts.room(told, KEPT)
        host = replace(host, cpu=cpu, memory=room, network=bandwidth or kept, offers=told.modes)
        site.ledger.put_host(host)
    return host


def end(site: Site, host: Host) -> str:
    """Stop a host of ours and remove it; forget one that was there before us. What is left there, "" for nothing."""
    left = ""
    match host.kind:
        case "sandbox":
            sandbox.down(host)
        case "xen":
            xenhost.down(host, site.catalog)
        case "libvirt":
            if host.hook:
                left = _unhooked(site, host)
            if host.folder:
                _leave(host.name, Path(host.folder))
    site.ledger.drop_host(host.name)
    return left


def _unhooked(site: Site, host: Host) -> str:
    """Take our hook away, if the host answers: it can be forgotten in any case."""
    reach = site.reach(host)
    try:
        hooked.take(reach, site.home)
    except PhiloxeniaError as cause:
        return f"its hook {hooked.path(site.home)} is still there: {cause.what}"
    finally:
        reach.close()
    return ""


def _leave(name: str, folder: Path) -> None:
    """End the connection to a machine that is not ours, and remove what we kept of the way there."""
    ssh.hang_up(name, folder)
    for ours in (folder, xenhost.sockets(folder)):
        shutil.rmtree(ours, ignore_errors=True)


def answers(host: Host) -> bool:
    """Whether its libvirt does, now."""
    if host.kind == "sandbox":
        return sandbox.alive(host)
    if host.kind == "xen" and not xenhost.alive(Path(host.folder)):
        return False
    try:
        Libvirt(host.uri).close()
    except PhiloxeniaError:
        return False
    return True


def answering(
    hosts: Iterable[Host], patience: float = PATIENCE, ask: Callable[[Host], bool] = answers
) -> dict[str, bool]:
    """Whether each host answers, all asked side by side. One that does not say so in `patience` seconds does not."""
    found: dict[str, bool] = {}
    threads = {
        host.name: Thread(target=lambda h: found.update({h.name: ask(h)}), args=(host,), daemon=True)
        for host in hosts
    }  # fmt: skip
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + patience
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: found.get(name, False) for name in threads}


def add(
    site: Site, name: str, uri: str, own: Path | None, bandwidth: int, hook: bool = True
) -> tuple[Host, HostFacts, str]:
    """Register a libvirt that is there: of this machine, or of another one by SSH.

    own   the ssh_config(5) that knows the way; None: the user's usual files
    hook  whether a Xen host gets our hook (see hooked); the last of what is returned says what was done for it
    Raises InputError (an address of another kind, a name that is taken) and EnvironmentLacks with all that keeps the
    host from being used; then nothing is stored.
    """
    driver, machine = _address(uri)
    if name in {h.name for h in site.ledger.hosts()}:
        raise InputError(
            Problem("", f"there is a host '{name}' already", f"phx host down {name} first")
        )
    host = Host(
        name, "libvirt", uri, "", "", "", 0, 0, bandwidth, catalog=str(site.catalog.root), driver=driver
    )  # fmt: skip
    if not machine:
        told = _told(host)
    else:
        folder = site.home / "hosts" / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            host = _over_ssh(host, machine, folder, own)
            told = _told(host)
            _demand(site, host)
        except BaseException:
            _leave(name, folder)
            raise
    if told.hypervisor != driver:
        what = f"the libvirt at {uri} is for {told.hypervisor}, not for {driver}"
        raise EnvironmentLacks(what, f"write {uri.replace(driver, told.hypervisor, 1)}")
    cpu, memory = facts.room(told, KEPT)
    host = replace(host, cpu=cpu, memory=memory)
    done = ""
    if driver == "xen":
        host = replace(host, offers=told.modes, hook=hook)
        done = _hooked(site, host) if hook else ""
    elif host.ssh:  # nobody boots a probe there: what its libvirt says is taken
        host = replace(host, accelerator="kvm" if "kvm" in told.types else "qemu")
    if driver == "qemu":
        host = replace(host, cgroup=_cgroup(site, host))
    site.ledger.put_host(host)
    return host, told, done


def _hooked(site: Site, host: Host) -> str:
    reach = site.reach(host)
    try:
        return hooked.put(reach, site.home)
    except BaseException:
        if host.folder:
            _leave(host.name, Path(host.folder))
        raise
    finally:
        reach.close()


def _address(uri: str) -> tuple[Driver, str]:
    """(driver, where: "" for this machine) of an address that we can use. InputError for others."""
    scheme, _, transport = urlsplit(uri).scheme.partition("+")
    path, where = urlsplit(uri).path, urlsplit(uri).netloc
    if scheme not in PROGRAMS:
        hint = close(scheme, PROGRAMS)
        raise InputError(Problem("", f"{uri} is no address of a QEMU or Xen host", hint))
    driver: Driver = "xen" if scheme == "xen" else "qemu"
    if path != "/system":
        what = f"{uri} is not the system's libvirt"
        raise InputError(Problem("", what, f"write {uri.partition(':')[0]}://{where}/system"))
    if transport == "ssh" and where:
        return driver, where
    if (transport == "" or (transport, driver) == ("unix", "qemu")) and not where:
        return driver, ""
    hint = f"write {driver}+ssh://user@machine/system, or {driver}:///system for this one"
    raise InputError(Problem("", f"{uri} is not reached by SSH", hint))


def _over_ssh(host: Host, where: str, folder: Path, own: Path | None) -> Host:
    told = urlsplit(f"//{where}")
    try:
        port = told.port
    except ValueError:
        raise InputError(Problem("", f"{where} has no port that is a number")) from None
    ways = ssh.asked(told.hostname or "", told.username or "", port, own)
    control = xenhost.sockets(folder)
    control.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = ssh.write(
        folder, ssh.config(host.name, [*ways, ("ConnectTimeout", "10")], control / "ssh")
    )
    return replace(
        host, uri=ssh.uri(host.driver, host.name, folder), folder=str(folder), run=str(control), ssh=str(path)
    )  # fmt: skip


def _cgroup(site: Site, host: Host) -> Cgroup:
    """Which cgroups the machine has, as systemd tells it by the file system that is there."""
    reach = site.reach(host)
    try:
        kind = reach.run(["stat", "-fc", "%T", "/sys/fs/cgroup"], timeout=30)
    finally:
        reach.close()
    return 2 if kind.strip() == "cgroup2fs" else 1


def _told(host: Host) -> HostFacts:
    hypervisor = Libvirt(host.uri)
    try:
        return hypervisor.facts()
    finally:
        hypervisor.close()


def _demand(site: Site, host: Host) -> None:
    """EnvironmentLacks naming all that a machine reached by SSH lacks."""
    names = [name for name, _ in PROGRAMS[host.driver]]
    script = f"id -u; for p in {' '.join(names)}; do command -v $p >/dev/null || echo $p; done"
    reach = site.reach(host)
    try:
        user, *missing = reach.run(["sh", "-c", script], timeout=30).split()
    except CommandFailed as cause:
        raise WorkFailed(f"host '{host.name}' cannot be looked at") from cause
    finally:
        reach.close()
    lacks = [] if user == "0" else ["it is entered as another user than root"]
    lacks += [
        f"no {name} (apt-get install {package})"
        for name, package in PROGRAMS[host.driver]
        if name in missing
    ]
    if lacks:
        raise EnvironmentLacks(f"host '{host.name}' cannot be used: {'; '.join(lacks)}")
