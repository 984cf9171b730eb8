"""An emulated Xen host: the appliance `xen-host` under QEMU, on any machine, real Xen with real PV and PVH guests.

    FOLDER/host.json     what it was started with, its image and its port
    FOLDER/secret        what its keys are derived from; operator_key is ours, known_hosts has its own
    FOLDER/boot/         Xen, dom0's kernel (unpacked: under emulation that costs Xen 10 s), its initrd
    FOLDER/disk.qcow2    a thin overlay over the image: dom0's root and all that guests keep
    FOLDER/seed.iso      dom0's identity, settled before it boots
    FOLDER/ssh_config    how it is reached (cluster/hosts/ssh.py)
    FOLDER/console.log   what Xen and dom0 said; qemu.log, what QEMU said
    RUN/                 sockets: the one SSH connection, console, context channel

It needs no root: QEMU's user network forwards one port of the loopback, and lets nothing else in or out. The end of
QEMU is the end of all guests; the disk stays, and `up` boots it again. A reboot of dom0 ends them too, and comes back
by itself; guests with autostart come back with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from builder import accelerator
from builder.errors import EnvironmentLacks, InputError, Problem, TimedOut, WorkFailed
from builder.images import kernel
from builder.images.catalog import Catalog
from builder.images.disk import HYPERVISOR
from builder.images.manifest import Manifest
from builder.plan import Report
from builder.run import lives, program, run, start_detached
from builder.units import show_size
from cluster.hosts import ssh
from cluster.hosts.emulated import DISK, KERNEL, Emulated, argv, disk_of
from cluster.hosts.facts import HostFacts
from cluster.hosts.host import Host
from cluster.hosts.hypervisor import Libvirt
from contextualize import declared, seed
from contextualize.broker import Broker
from contextualize.context import Context, Member
from contextualize.identity import Identity, Secret, derive, operator_key
from contextualize.message import Report as Told
from contextualize.message import Said, plain
from contextualize.render import Documents

RECIPE = "xen-host"
PATIENCE = 600.0
"""Seconds until Xen has to answer: ten times what it takes on a quiet machine under emulation."""
PANIC = "Panic on CPU"
"""What Xen says when it can go on no more."""
DOM0 = 1 << 30
"""Bytes of dom0, by the recipe's options of Xen; guests have the rest."""
LEAST, USUAL, USUAL_DISK = 2 << 30, 4 << 30, 20 << 30
ADDRESS, PREFIX = "10.0.2.15", 24
"""dom0's in QEMU's user network."""


def appliance(home: Path, library: Path, catalog: Catalog, report: Report) -> Manifest:
    """The newest `xen-host` of the catalog, built if there is none. Raises what a build raises."""
    found = catalog.find(RECIPE)
    if found is None:
        from builder.choice import asked
        from builder.line import Line

        shop, [chosen] = Line(home, library, report), asked([RECIPE], False, library)
        flat = shop.load(chosen, {})
        found, _ = shop.build(flat, shop.locks.facts(flat, chosen.folder)[0])
    if found.hypervisor is None:
        raise EnvironmentLacks(f"image {found.short} has no hypervisor", f"phx build {RECIPE}")
    return found


def up(
    name: str, home: Path, catalog: Catalog, image: Manifest, report: Report,
    memory: int | None = None, cores: int | None = None, disk: int | None = None,
    begun: Callable[[Host], None] = lambda _: None,
) -> tuple[Host, HostFacts]:  # fmt: skip
    """Boot the host, or find it running; what its Xen says of it, once that answers through libvirt.

    image  for a host that is new; one that was there keeps its own, and its disk
    memory, disk  bytes; `cores` of the machine. None: as it was, or 4G, as many as there are, and 20G
    begun  told of it once QEMU runs, so that it can be ended however this goes on
    Raises InputError (too little memory, a smaller disk), EnvironmentLacks (a program is missing), WorkFailed with the
    end of the console when QEMU ends or dom0's agent fails, TimedOut after PATIENCE with what was last seen.
    """
    for needed, package in ((accelerator.QEMU, "qemu-system-x86"), ("qemu-img", "qemu-utils"),
                            ("ssh", "openssh-client")):  # fmt: skip
        program(needed, package)
    folder = home / "hosts" / name
    known = _read(folder)
    if known is not None:
        image = catalog.get(known.image)
    if known is not None and alive(folder):
        if {memory, cores, disk} - {None, known.memory, known.cores, known.disk}:
            what = f"host '{name}' runs, and stays as it is while it does"
            raise InputError(Problem("", what, "end it in dom0: poweroff; then the same again"))
        return _answering(known, report)
    files = catalog.folder(image)
    memory_file = home / "cache" / "accelerator.json"
    machine = Emulated(
        name, str(folder), str(sockets(folder)), image.id,
        memory or (known.memory if known else USUAL),
        cores or (known.cores if known else len(os.sched_getaffinity(0))),
        disk or (known.disk if known else max(USUAL_DISK, image.size)),
        _port(known.port if known else 0),
        accelerator.choose(files / "vmlinuz", files / "initrd", memory_file),
    )  # fmt: skip
    _demand(machine, known.disk if known else image.size)
    folder.mkdir(parents=True, exist_ok=True)
    catalog.hold(image, f"host {name}")
    identity = _settle(machine, image, files, fresh=known is None)
    console = folder / "console.log"
    before = console.stat().st_size if console.exists() else 0
    report(f"{name} boots: {'KVM' if machine.accelerator == 'kvm' else 'under emulation'}")
    pid = start_detached(
        argv(machine, image, identity), log=folder / "qemu.log", cwd=folder / "boot"
    )
    # For a moment after exec(2) a process has no command line that could be looked at.
    deadline = time.monotonic() + 5
    while lives(pid) and not alive(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    begun(describe(machine))
    return _answering(machine, report, before)


def _demand(machine: Emulated, least_disk: int) -> None:
    """InputError with all that the machine cannot be."""
    problems = []
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not LEAST <= machine.memory <= whole:
        what = f"{show_size(machine.memory)} is not between {show_size(LEAST)} and this machine's {show_size(whole)}"
        hint = f"dom0 takes {show_size(DOM0)} of it, guests have the rest"
        problems.append(Problem("--memory", what, hint))
    if machine.disk < least_disk:
        what = f"{show_size(machine.disk)} is smaller than its disk, {show_size(least_disk)}"
        problems.append(Problem("--disk", what, "write a larger one: it grows at the next boot"))
    if not 1 <= machine.cores <= 64:
        problems.append(Problem("--cores", f"{machine.cores} cannot be shown", "write 1 to 64"))
    if problems:
        raise InputError(problems)


def _settle(machine: Emulated, image: Manifest, files: Path, *, fresh: bool) -> Identity:
    """Its files: disk, seed, keys, and the ways to it. dom0's identity is that of its first boot."""
    folder, run_folder = Path(machine.folder), Path(machine.run)
    if fresh:
        for name in (DISK, "console.log", "qemu.log"):  # of a start that died before host.json
            (folder / name).unlink(missing_ok=True)
        _private(folder / "secret", os.urandom(32))
    disk, size = folder / DISK, str(machine.disk)
    if not disk.exists():
        base = str(files / "disk.raw")
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, str(disk), size]
    else:
        argv = ["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), size]
    run(argv, timeout=60)
    boot = folder / "boot"
    boot.mkdir(exist_ok=True)
    for name in (HYPERVISOR, "initrd"):
        shutil.copyfile(files / name, boot / name)
    (boot / KERNEL).write_bytes(kernel.unpacked((files / "vmlinuz").read_bytes()))
    secret = _secret(folder)
    identity, operator = derive(secret, "host", machine.name), operator_key(secret, "host")
    context = Context(
        "host", (Member(identity, "host", ADDRESS, PREFIX, machine.cores, DOM0 >> 20),), (("host", ()),),
        (f"{operator.public} operator",), declared={"host": declared.declared(image.context)},
    )  # fmt: skip
    documents = Documents(context)
    told = documents.seed(machine.name, documents.document(machine.name))
    _private(folder / "seed.iso", seed.iso({"philoxenia.json": json.dumps(told).encode()}))
    _private(folder / "operator_key", operator.private.reveal())
    (folder / "known_hosts").write_text(ssh.known(machine.port, identity.host_key.public))
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ssh.hang_up(machine.name, folder)
    for left in run_folder.iterdir():
        left.unlink()
    ssh.write(folder, ssh.emulated(machine.name, machine.port, folder, run_folder / "ssh"))
    (folder / "host.json").write_text(json.dumps(asdict(machine), indent=1) + "\n")
    return identity


def _answering(machine: Emulated, report: Report, before: int = 0) -> tuple[Host, HostFacts]:
    """Wait until dom0 is healthy and its libvirt tells of Xen. `before`: bytes of its console from other boots."""
    name, folder = machine.name, Path(machine.folder)
    token = derive(_secret(folder), "host", name).token
    deadline, stages = time.monotonic() + PATIENCE, list[Told]()

    def hear(said: Said) -> None:
        if isinstance(said, Told):
            stages.append(said)
            report(f"{name} {said.stage} ({said.uptime:.1f} s after its kernel started)")

    def check(doing: str) -> None:
        if not alive(folder):
            said = " | ".join([*_last(folder / "qemu.log", 3), *_last(folder / "console.log", 3)])
            hint = f"all of it is in {folder}/console.log"
            raise WorkFailed(f"host '{name}': QEMU ended; it last said: {said}", hint)
        if PANIC in (said := " | ".join(_last(folder / "console.log", 12, before))):
            hint = f"phx host down {name}; all of it is in {folder}/console.log"
            raise WorkFailed(f"host '{name}': Xen crashed; it last said: {said}", hint)
        if stages and stages[-1].stage == "failed":
            raise WorkFailed(f"host '{name}': its agent failed: {stages[-1].message}")
        if time.monotonic() > deadline:
            stage = stages[-1].stage if stages else "nothing"
            said = " | ".join(_last(folder / "console.log", 3))
            what = f"host '{name}': {doing} for {PATIENCE:.0f} s; its agent told of {stage}, its console of: {said}"
            raise TimedOut(what, hint=f"phx host up --xen {name} goes on waiting")

    socket_, refuse = Path(machine.run) / "context", lambda _, reason: report(f"  {reason}")
    with Broker({name: (socket_, token)}, hear, refuse) as broker:
        while not stages or stages[-1].stage != "healthy":
            check("dom0 is not ready")
            broker.step(0.5)
    host = describe(machine)
    while True:
        try:
            libvirt = Libvirt(host.uri)
        except EnvironmentLacks:
            check("its libvirt does not answer")
            time.sleep(0.5)
        else:
            with contextlib.closing(libvirt):
                return host, libvirt.facts()


def describe(machine: Emulated) -> Host:
    """The host's value, without what it can promise: it is asked for that."""
    folder = Path(machine.folder)
    return Host(
        name=machine.name, kind="xen", uri=ssh.uri("xen", machine.name, folder), folder=machine.folder,
        run=machine.run, netns="", cpu=0, memory=0, network=0, accelerator=machine.accelerator,
        ssh=str(folder / "ssh_config"), driver="xen", hook=True,
    )  # fmt: skip


def down(host: Host, catalog: Catalog) -> None:
    """End it with all its guests, and remove its files; nothing is asked of dom0, whose disk goes. Silent when it is
    gone.
    """
    folder = Path(host.folder)
    ssh.hang_up(host.name, folder)
    for signal_, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + patience
        if alive(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(_pid(folder), signal_)
        while alive(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
    if alive(folder):
        raise WorkFailed(f"host '{host.name}': its QEMU, process {_pid(folder)}, does not end")
    catalog.release(f"host {host.name}")
    for top in (folder, Path(host.run)):
        shutil.rmtree(top, ignore_errors=True)


def alive(folder: Path) -> bool:
    """Whether the QEMU of the host in `folder` runs."""
    return bool(_pid(folder))


def _pid(folder: Path) -> int:
    """The QEMU that has the host's disk, looked for among all processes: a number in a file could be another's by now.
    0 when there is none.
    """
    wanted = disk_of(folder).encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(w.startswith(wanted) for w in words) and lives(int(entry.name)):
                    return int(entry.name)
    return 0


def _read(folder: Path) -> Emulated | None:
    """The host that was started in `folder` before; None when there is none whole."""
    try:
        return Emulated(**json.loads((folder / "host.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _secret(folder: Path) -> Secret:
    return Secret((folder / "secret").read_bytes())


def _private(path: Path, data: bytes) -> None:
    """A file that only we read, whole."""
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    aside.replace(path)


def sockets(folder: Path) -> Path:
    """Where a host's sockets are, whose paths are short; another home's host of that name has another folder."""
    if os.geteuid() == 0:
        top = Path("/run/philoxenia")
    else:
        given = os.environ.get("XDG_RUNTIME_DIR")
        top = Path(given or tempfile.gettempdir()) / f"philoxenia-{os.geteuid()}"
    return top / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def _port(wanted: int) -> int:
    """A free port of the loopback: the wanted one, so that what knows it goes on, or another."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise EnvironmentLacks("no port of the loopback is free")


def _last(path: Path, lines: int, before: int = 0) -> list[str]:
    """The end of what was said after the first `before` bytes, made plain."""
    try:
        with path.open("rb") as file:
            file.seek(max(before, file.seek(0, os.SEEK_END) - 4096))
            said = plain(file.read().decode(errors="replace"))
    except OSError:
        return []
    return [line.strip() for line in said.splitlines() if line.strip()][-lines:]
