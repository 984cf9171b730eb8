"""The drivers a guest needs to find its root, turned into an initrd: a static busybox, modules, one script.

It is uncompressed (a guest under emulation spends longer unpacking than reading), loads exactly the drivers it was
given, in order, waits for the root device no longer than ROOT_WAIT seconds, and says what it sees when it gives up.
With `phx.probe` on the kernel command line it prints PROBE and powers off: that is how an accelerator is tested.
Format: cpio "newc", Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from builder.errors import WorkFailed

PROBE = "philoxenia: probe ok"
ROOT_WAIT = 20

INIT = f"""#!/bin/busybox sh
# philoxenia initrd
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
root=/dev/vda; init=/sbin/init; kind=ext4; changes=
for word in $($bb cat /proc/cmdline); do
    case $word in
        root=*) root=${{word#root=}} ;;
        rootfstype=*) kind=${{word#rootfstype=}} ;;
        phx.changes=*) changes=${{word#phx.changes=}} ;;
        init=*) init=${{word#init=}} ;;
        phx.probe) echo "{PROBE}"; $bb poweroff -f ;;
    esac
done
for m in $($bb cat /modules/order); do $bb insmod /modules/$m 2>/dev/null; done
fail() {{
    echo "philoxenia: cannot mount $1; block devices seen:"
    $bb cat /proc/partitions
    $bb sleep 1
    $bb poweroff -f
}}
# The device of a path, or of PARTLABEL=name (its disk has another name on another machine), once it is there.
find() {{
    found=$1; n=0
    while [ $n -lt {ROOT_WAIT * 20} ]; do
        case $1 in
            PARTLABEL=*) for at in /sys/class/block/*/uevent; do
                if $bb grep -qx "PARTNAME=${{1#PARTLABEL=}}" "$at"; then at=${{at%/uevent}}; found=/dev/${{at##*/}}; fi
            done ;;
        esac
        if [ -b "$found" ]; then return; fi
        $bb usleep 50000; n=$((n+1))
    done
}}
case "$root $changes" in *PARTLABEL=*) $bb mount -t sysfs sys /sys ;; esac
find "$root"
case $kind in
    squashfs|erofs)
        # Read only, under an overlay: what changes is in memory, or on a partition of its own.
        $bb mount -t tmpfs -o mode=755 run /run
        $bb mkdir -p /run/overlay/fixed /run/overlay/changes
        $bb mount -t "$kind" -o ro "$found" /run/overlay/fixed || fail "root $root"
        case $changes in
            ""|memory) $bb mount -t tmpfs -o mode=755 changes /run/overlay/changes ;;
            *) find "$changes"; $bb mount -t ext4 -o rw,noatime,noinit_itable "$found" /run/overlay/changes ;;
        esac || fail "changes $changes"
        $bb mkdir -p /run/overlay/changes/upper /run/overlay/changes/work
        at=/run/overlay
        $bb mount -t overlay -o lowerdir=$at/fixed,upperdir=$at/changes/upper,workdir=$at/changes/work overlay /root ||
            fail "an overlay over $root"
        $bb mount --move /run /root/run ;;
    ext4) $bb mount -t ext4 -o rw,noatime,noinit_itable "$found" /root || fail "root $root" ;;
    *) $bb mount -t "$kind" -o rw,noatime "$found" /root || fail "root $root" ;;
esac
case "$root $changes" in *PARTLABEL=*) $bb umount /sys ;; esac
$bb mount --move /dev /root/dev
$bb umount /proc
exec $bb switch_root /root "$init"
"""


def load_order(wanted: Sequence[str], dep: str, builtin: str) -> list[str]:
    """Paths below lib/modules/VERSION of the wanted modules and all they depend on, loadable in this order.

    wanted   module names, dashes and underscores alike
    dep      modules.dep: "path: path..." where a module's own dependencies come nearest first
    builtin  modules.builtin: paths of what is in the kernel already
    Raises WorkFailed naming a module that the kernel does not have.
    """
    depends: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in dep.splitlines():
        path, _, rest = line.partition(":")
        depends[path] = rest.split()
        paths[_module(path)] = path
    inside = {_module(path) for path in builtin.split()}
    order: list[str] = []
    for name in wanted:
        key = name.replace("-", "_")
        if key in paths:
            order += [*reversed(depends[paths[key]]), paths[key]]
        elif key not in inside:
            raise WorkFailed(
                f"the kernel has no module '{name}'", "correct 'modules' of the recipe's kernel"
            )
    return list(dict.fromkeys(order))


def _module(path: str) -> str:
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def pack(busybox: bytes, modules: Mapping[str, bytes], order: Sequence[str]) -> bytes:
    """The initrd's bytes. `modules` maps file name to content; `order` lists the names to load."""
    listed = "".join(f"{name}\n" for name in order).encode()
    folders = [
        (name, 0o40755, b"") for name in ("bin", "dev", "modules", "proc", "root", "run", "sys")
    ]
    files = [
        ("bin/busybox", 0o100755, busybox),
        ("init", 0o100755, INIT.encode()),
        ("modules/order", 0o100644, listed),
        *((f"modules/{name}", 0o100644, data) for name, data in modules.items()),
    ]
    console = ("dev/console", 0o20600, b"")
    return cpio([*folders, console, *sorted(files)])


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A "newc" archive of (name, mode, content); all owned by root, all at time 0."""
    out = bytearray()

    def add(name: str, mode: int, data: bytes, number: int) -> None:
        path = name.encode() + b"\0"
        major, minor = (5, 1) if mode & 0o170000 == 0o20000 else (0, 0)
        head = (number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0)
        out.extend(b"070701" + b"".join(b"%08X" % value for value in head))
        out.extend(path)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (name, mode, data) in enumerate(entries, 1):
        add(name, mode, data, number)
    add("TRAILER!!!", 0, b"", 0)
    return bytes(out)
