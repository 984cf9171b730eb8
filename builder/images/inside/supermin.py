"""The small machine in which libguestfs looks at disks: made once, kept in the home's cache.

libguestfs boots a machine of its own, with supermin's root filesystem (Debian's programs of this very machine) and a
kernel. A container has no kernel, so it is given that of an image of ours, read out of its ext4 with debugfs: no
download, no package more, no kernel of anybody else's. Measured: 3 s to make, then 7 s for each start under emulation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder import accelerator
from builder.claims import alone, claimed
from builder.errors import CommandFailed, EnvironmentLacks, WorkFailed
from builder.images.catalog import Catalog
from builder.images.manifest import Manifest
from builder.plan import Report
from builder.run import program, run

TIMEOUT = 300.0
PARTS = Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d")
"""What Debian's libguestfs0 brings for its machine."""

# supermin wants the folder /lib/modules of this machine, which a container does not have; root's gets one to look at.
_BUILD = """
if [ ! -d /lib/modules ]; then
    mkdir "$PHX_OVER"; mount -t tmpfs over "$PHX_OVER"; mkdir "$PHX_OVER/upper" "$PHX_OVER/work"
    mount -t overlay over -o "lowerdir=/usr/lib,upperdir=$PHX_OVER/upper,workdir=$PHX_OVER/work" /usr/lib
    mkdir /usr/lib/modules
fi
exec supermin --build --copy-kernel -f ext2 --host-cpu x86_64 "$PHX_PARTS" -o "$PHX_INTO"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """folder       kernel, initrd and root, as libguestfs takes them from its path
    accelerator  kvm, or qemu for emulation
    """

    folder: Path
    accelerator: str


def machine(home: Path, catalog: Catalog, report: Report) -> Machine:
    """The machine, made now if there is none for the installed libguestfs.

    Raises EnvironmentLacks when libguestfs, supermin or an image with a kernel is missing.
    """
    parts = sorted(PARTS.glob("*"))
    if not parts:
        raise EnvironmentLacks("libguestfs is missing", "apt-get install python3-guestfs")
    told = "".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in parts)
    root = home / "cache" / "guestfs"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / hashlib.sha256(told.encode()).hexdigest()[:12]
    if not folder.is_dir():
        with alone(root / "lock", lambda: report("waiting for another phx's libguestfs")):
            if not folder.is_dir():
                _make(catalog, folder, report)
    how = accelerator.choose(
        folder / "kernel", folder / "probe", home / "cache" / "accelerator.json"
    )
    return Machine(folder, how)


def _make(catalog: Catalog, folder: Path, report: Report) -> None:
    """Fill `folder`; machines of other versions go."""
    report("making libguestfs's machine, once")
    for old in folder.parent.glob("*/README.fixed"):
        shutil.rmtree(old.parent, ignore_errors=True)
    with claimed(folder.parent, "tmp") as work:
        image = _kernel(catalog, work)
        made = work / "made"
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PHX_INTO": str(made),
            "PHX_PARTS": str(PARTS), "PHX_OVER": str(work / "over"),
            "SUPERMIN_KERNEL": str(catalog.folder(image) / "vmlinuz"),
            "SUPERMIN_MODULES": str(work / image.kernel), "SUPERMIN_KERNEL_VERSION": image.kernel,
        }  # fmt: skip
        program("supermin", "supermin")
        argv = ["sh", "-euc", _BUILD]
        if os.geteuid() == 0:
            argv = [program("unshare", "util-linux"), "--mount", *argv]
        elif not Path("/lib/modules").is_dir():
            # In a user namespace every file of root's would be nobody's in the machine, and it would not start.
            raise EnvironmentLacks(
                "supermin wants a folder /lib/modules", "mkdir /lib/modules, as root"
            )
        try:
            run(argv, timeout=TIMEOUT, env=env)
        except CommandFailed as cause:
            raise WorkFailed("libguestfs's machine could not be made") from cause
        shutil.copyfile(catalog.folder(image) / "initrd", made / "probe")
        # libguestfs takes a folder for a finished machine when this file is in it.
        (made / "README.fixed").write_text(f"kernel {image.kernel} of image {image.id}\n")
        made.rename(folder)


def _kernel(catalog: Catalog, into: Path) -> Manifest:
    """The newest image of ours whose drivers can be read; they are in `into`/VERSION afterwards."""
    for image in (m for m in catalog.images() if m.origin is None):
        disk = catalog.folder(image) / "disk.raw"
        dump = f"rdump /usr/lib/modules/{image.kernel} ."
        argv = [program("debugfs", "e2fsprogs"), "-R", dump, str(disk)]
        run(argv, timeout=TIMEOUT, cwd=into, check=False)
        if (into / image.kernel / "modules.dep").is_file():
            return image
    raise EnvironmentLacks(
        "libguestfs needs a kernel for its machine, and no image in the catalog has one",
        "phx build base",
    )
