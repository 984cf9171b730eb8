"""A sandbox host: a libvirtd of our own in namespaces of its own, on any Linux machine, in about a second.

It needs no systemd and no libvirtd of the machine's, and leaves both alone: its network namespace has no way out,
and the folders that libvirt writes are bound, in its mount namespace only, to folders of the sandbox:

    FOLDER/lib  /var/lib/libvirt      FOLDER/log  /var/log/libvirt    RUN  /run/libvirt
    FOLDER/etc  /etc/libvirt          HOME/cache/libvirt, shared  /var/cache/libvirt
    the image catalog, read-only      /var/lib/libvirt/images

It has a process namespace too, whose first process is the warden (see there). Everything it starts is in its network
namespace, so `down` finds all of it there, whatever died before.

dnsmasq is demanded and never run: libvirt 9.0 without it crashes (dnsmasqCapsGetBinaryPath of NULL) each time that it
starts beside a network that is up, so a libvirtd that died would not come back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from builder.errors import EnvironmentLacks, InputError, Problem, TimedOut, WorkFailed
from builder.run import lives, program, run, start_detached
from cluster.hosts.host import LOGS, QEMU_UID, RUN, STATE, Host, cpu_list

START_TIMEOUT = 30.0
RESERVED_MEMORY = 1 << 30
"""Bytes that the machine keeps for itself and for QEMU's own needs."""

_INSIDE = r"""set -eu
mount --make-rprivate /
bind() { mount --bind "$1" "$2"; }
bind "$PHX_RUN" /run/libvirt
bind "$PHX_CACHE" /var/cache/libvirt
for name in lib log; do bind "$PHX_FOLDER/$name" /var/$name/libvirt; done
bind "$PHX_FOLDER/etc" /etc/libvirt
bind "$PHX_CATALOG" /var/lib/libvirt/images
mount -o remount,bind,ro /var/lib/libvirt/images
bind "$PHX_FOLDER/passwd" /etc/passwd
bind "$PHX_FOLDER/group" /etc/group
ip link set lo up
# A /dev/kvm that QEMU's user may open. One that only root opens makes libvirt learn QEMU's capabilities anew, as root
# does find it there and the user does not, for every domain: 30 s for three.
if [ -c /dev/kvm ]; then
    mount -t tmpfs -o mode=755 dev "$PHX_FOLDER/dev"
    mknod -m 600 "$PHX_FOLDER/dev/kvm" c 10 232
    chown QEMU_UID:QEMU_UID "$PHX_FOLDER/dev/kvm"
    bind "$PHX_FOLDER/dev/kvm" /dev/kvm
fi
exec "$PHX_PYTHON" -I -S "$PHX_WARDEN" "$PHX_RUN"
""".replace("QEMU_UID", str(QEMU_UID))


def up(name: str, home: Path, catalog: Path, network: int, cpus: str = "") -> Host:
    """Start the sandbox, or find it running; the host with what it can promise.

    network  bit/s that its private networks may promise together
    cpus     the CPUs that its guests run on, as in 0-1; "" for all that we may use
    Raises EnvironmentLacks (not root, a program missing), InputError (the name is used by another home),
    TimedOut with the end of libvirtd's log.
    """
    demand_root()
    for needed, package in (("libvirtd", "libvirt-daemon"), ("virtlogd", "libvirt-daemon"),
                            ("dnsmasq", "dnsmasq-base"),
                            ("ip", "iproute2"), ("qemu-system-x86_64", "qemu-system-x86"),
                            ("qemu-img", "qemu-utils"), ("nsenter", "util-linux"), ("nft", "nftables")):  # fmt: skip
        program(needed, package)
    host = describe(name, home, catalog, network, cpus)
    Path("/run/philoxenia").mkdir(mode=0o755, exist_ok=True)
    with _lock(name):
        owner = _owner(host)
        if owner not in ("", host.folder) and pids(name):
            raise InputError(
                Problem("", f"a sandbox host '{name}' of another folder is running: {owner}",
                        "choose another name, or take that one down from there")
            )  # fmt: skip
        if alive(host):
            return host
        if pids(name):
            _again(host)
            return host
        # What a dead sandbox left is kept: its disks and domains go on where the machine's end cut them off.
        _forget_namespace(host)
        _prepare(host)
        # What QEMU can do costs libvirt 3 s to find out; it keeps the answer for the next sandbox.
        cache = home / "cache" / "libvirt"
        cache.mkdir(parents=True, exist_ok=True)
        log = Path(host.folder) / "libvirtd.log"
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "PHX_RUN": host.run,
            "PHX_FOLDER": host.folder, "PHX_CACHE": str(cache), "PHX_CATALOG": host.catalog,
            "PHX_PYTHON": sys.executable, "PHX_WARDEN": str(Path(__file__).with_name("warden.py")),
        }  # fmt: skip
        # nsenter, not `ip netns exec`: that one remounts /sys and hides the cgroups from libvirtd.
        pid = start_detached(
            ["nsenter", f"--net=/run/netns/{host.netns}", "unshare", "--mount", "--propagation",
             "slave", "--pid", "--fork", "--mount-proc", "sh", "-c", _INSIDE], log=log, env=env, cwd=Path("/"),
        )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while not alive(host):
            if time.monotonic() > deadline or not lives(pid):
                raise TimedOut(
                    f"host '{name}': libvirtd did not start; it last said: {_last(host)}"
                )
            time.sleep(0.05)
    return host


def _again(host: Host) -> None:
    """Wait for a sandbox whose processes live and whose libvirtd is being started again by the warden."""
    deadline = time.monotonic() + START_TIMEOUT
    while pids(host.name):
        if alive(host):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    raise WorkFailed(
        f"host '{host.name}' has processes but its libvirtd does not answer "
        f"for {START_TIMEOUT:.0f} s; it last said: {_last(host)}",
        f"phx host down {host.name} --force, then phx host up {host.name}",
    )


def _last(host: Host) -> str:
    """The last lines that the sandbox's daemons and its warden wrote."""
    try:
        text = (Path(host.folder) / "libvirtd.log").read_text(errors="replace")
    except OSError:
        return "nothing"
    return " | ".join(text.strip().splitlines()[-3:]) or "nothing"


def demand_root() -> None:
    """EnvironmentLacks unless we are root."""
    if os.geteuid() != 0:
        raise EnvironmentLacks("a sandbox host needs root (namespaces, mounts)", "run it with sudo")


def describe(name: str, home: Path, catalog: Path, network: int, cpus: str = "") -> Host:
    """The host's value, whether it runs or not. InputError if `cpus` are not this machine's."""
    folder = home / "hosts" / name
    run_folder = f"/run/philoxenia/{name}"
    cores = len(_usable(cpus)) * 1000
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Host(
        name=name, kind="sandbox", uri=f"qemu+unix:///system?socket={run_folder}/libvirt-sock",
        folder=str(folder), run=run_folder, netns=f"phx-{name}",
        # A tenth of the CPU stays for libvirtd, the broker and whoever works at the machine.
        cpu=cores * 9 // 10, memory=max(0, memory - RESERVED_MEMORY), network=network,
        partition=f"/phx-{name}", catalog=str(catalog), cpus=cpus,
        cgroup=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
    )  # fmt: skip


def _usable(cpus: str) -> frozenset[int]:
    ours = frozenset(os.sched_getaffinity(0))
    if not cpus:
        return ours
    try:
        wanted = cpu_list(cpus)
    except ValueError as cause:
        raise InputError(Problem("--cpus", *str(cause).split("; "))) from None
    if not wanted <= ours:
        have = ", ".join(map(str, sorted(ours)))
        raise InputError(Problem("--cpus", f"'{cpus}' are not all here", f"there are {have}"))
    return wanted


def down(host: Host) -> None:
    """End everything that lives in the sandbox and remove what it was made of. Silent when it is gone."""
    demand_root()
    with _lock(host.name):
        if _owner(host) not in ("", host.folder):
            shutil.rmtree(host.folder, ignore_errors=True)
            return  # the name is another home's by now: only our folder is ours
        for signal_, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + patience
            for pid in pids(host.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_)
            while pids(host.name) and time.monotonic() < deadline:
                time.sleep(0.05)
        if left := pids(host.name):
            raise WorkFailed(f"host '{host.name}': processes {left} do not end")
        _clear(host)
    with contextlib.suppress(OSError):
        (Path("/run/philoxenia") / f".{host.name}.lock").unlink()


def alive(host: Host) -> bool:
    """Whether the sandbox's libvirtd accepts connections. One of that name that another home started is not it."""
    import socket

    if _owner(host) != host.folder:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{host.run}/libvirt-sock")
        except OSError:
            return False
    return True


def _owner(host: Host) -> str:
    """The folder of the host whose sockets lie in `host.run`; "" when there are none."""
    try:
        return (Path(host.run) / "owner").read_text()
    except OSError:
        return ""


def pids(name: str) -> list[int]:
    """Every process in the sandbox's network namespace."""
    path = Path(f"/run/netns/phx-{name}")
    if not path.exists():
        return []
    wanted = path.stat()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                ns = (entry / "ns/net").stat()
                if (ns.st_dev, ns.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    folder = Path("/run/philoxenia")
    folder.mkdir(mode=0o755, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _controllers() -> list[Path]:
    """Where a cgroup partition is made: each v1 hierarchy that libvirt uses, or the one v2 tree."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return [base]
    names = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
    # Hybrid machines have a v2 tree without controllers at `unified`; libvirt wants the partition there too.
    found = {
        (base / n).resolve() for n in (*names, "unified") if (base / n / "cgroup.procs").exists()
    }
    return sorted(found)


def _prepare(host: Host) -> None:
    folder, run_folder = Path(host.folder), Path(host.run)
    for top in (folder, run_folder):
        top.mkdir(parents=True, exist_ok=True)
    (run_folder / "owner").write_text(host.folder)
    for name in ("lib/qemu", "lib/dnsmasq", "lib/images", "log", "etc", "dev"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for point in (
        "/run/libvirt",
        "/var/lib/libvirt",
        "/var/cache/libvirt",
        "/var/log/libvirt",
        "/etc/libvirt",
    ):
        Path(point).mkdir(parents=True, exist_ok=True)
    etc = folder / "etc"
    (etc / "qemu.conf").write_text(
        # Files are given their owner by us (dynamic_ownership would change those of the shared images).
        'user = "libvirt-qemu"\ngroup = "libvirt-qemu"\ndynamic_ownership = 0\n'
        'security_driver = "none"\nnamespaces = []\nremember_owner = 0\n'
    )
    (etc / "libvirtd.conf").write_text(
        'unix_sock_group = "root"\nunix_sock_rw_perms = "0700"\nunix_sock_ro_perms = "0700"\n'
        'auth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_level = 3\n'
    )
    (etc / "virtlogd.conf").write_text("max_size = 8388608\nmax_backups = 2\n")
    # libvirtd insists on its user's name; where the machine has none, only the sandbox sees one.
    for file, line in (
        (
            "passwd",
            f"libvirt-qemu:x:{QEMU_UID}:{QEMU_UID}:libvirt QEMU:/var/lib/libvirt:/usr/sbin/nologin",
        ),
        ("group", f"libvirt-qemu:x:{QEMU_UID}:"),
    ):
        text = Path("/etc", file).read_text()
        if "\nlibvirt-qemu:" not in text:
            text = text.rstrip("\n") + f"\n{line}\n"
        (folder / file).write_text(text)
    for inside in (STATE, RUN, LOGS):
        host.outside(inside).mkdir(parents=True, exist_ok=True)
    # Guests with autostart start with libvirtd, and find the place of their channels.
    for cluster in host.outside(STATE).iterdir():
        channels = host.outside(RUN / cluster.name)
        channels.mkdir(mode=0o711, exist_ok=True)
        os.chown(channels, QEMU_UID, QEMU_UID)
    confined = False
    for group in _controllers():
        here = group / f"phx-{host.name}.partition"
        here.mkdir(exist_ok=True)
        # Nine parts of ten for the guests against any one busy program outside: promises hold beside others' work.
        cores = len(_usable(host.cpus))
        for file, weight in (("cpu.shares", 9216 * cores), ("cpu.weight", min(10000, 900 * cores))):
            if (here / file).exists():
                (here / file).write_text(str(weight))
        if host.cpus and (here / "cpuset.cpus").exists():
            (here / "cpuset.cpus").write_text(host.cpus)
            confined = True
        # cgroup v1: a cpuset is unusable until it is told its cpus and memory nodes.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (here / file).exists() and not (here / file).read_text().strip():
                (here / file).write_text((group / file).read_text())
    if host.cpus and not confined:
        raise EnvironmentLacks(
            "guests cannot be kept to some CPUs: there is no cgroup controller 'cpuset'",
            "leave out --cpus, or let the kernel have it",
        )
    if not Path(f"/run/netns/{host.netns}").exists():
        run(["ip", "netns", "add", host.netns], timeout=10)


def _forget_namespace(host: Host) -> None:
    if Path(f"/run/netns/{host.netns}").exists():
        run(["ip", "netns", "del", host.netns], timeout=10)
    shutil.rmtree(host.run, ignore_errors=True)


def _clear(host: Host) -> None:
    """Remove what a sandbox without processes left: namespace, folders, cgroups."""
    _forget_namespace(host)
    shutil.rmtree(host.folder, ignore_errors=True)
    for group in _controllers():
        here = group / f"phx-{host.name}.partition"
        for inner in sorted(here.rglob("*"), reverse=True) if here.exists() else []:
            if inner.is_dir():
                with contextlib.suppress(OSError):
                    inner.rmdir()
        with contextlib.suppress(OSError):
            here.rmdir()
