"""Our hook on a Xen machine that is its provider's: put beside the machine's own hooks, and taken away again.

libvirt runs every program in hooks/libxl.d, besides hooks/libxl (libvirt 6.5 and later), and looks whether there are
any when it starts. So its daemon is started again once the hook is there; its guests do not notice.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path, PurePosixPath

from builder.errors import EnvironmentLacks
from cluster.hosts import hook
from cluster.hosts.reach import Reach

FOLDER = PurePosixPath("/etc/libvirt/hooks/libxl.d")
TIMEOUT = 120.0
_AGAIN = "for u in libvirtd virtxend; do systemctl is-active -q $u && systemctl restart $u && echo $u; done; :"


def path(home: Path) -> PurePosixPath:
    """Where our hook lies. Each home has one of its own: whoever leaves takes nothing from the others."""
    ours = hashlib.sha256(f"{platform.node()}:{home}".encode()).hexdigest()[:8]
    return FOLDER / f"philoxenia-{ours}"


def put(reach: Reach, home: Path) -> str:
    """Put it there; what was done, for the provider to know. EnvironmentLacks if libvirt would not take note of it."""
    where = path(home)
    reach.folders((FOLDER.parent, 0o755, 0), (FOLDER, 0o755, 0))
    reach.write(where, Path(hook.__file__).read_bytes(), 0o755, 0)
    daemon = reach.run(["sh", "-c", _AGAIN], timeout=TIMEOUT).split()
    if not daemon:
        reach.remove(where)
        what = f"host '{reach.host.name}': neither libvirtd nor virtxend is a service that runs, to take note of a hook"
        raise EnvironmentLacks(what, "--no-hook adds the host without it")
    return f"{where} holds guests to their promises at every start ({daemon[0]} was started again for it)"


def take(reach: Reach, home: Path) -> None:
    """Remove it; what of libvirt's folders is empty goes too. Silent when it is gone."""
    script = 'rm -f "$1"; rmdir "${1%/*}" 2>/dev/null || :'
    reach.run(["sh", "-c", script, "sh", str(path(home))], timeout=TIMEOUT)
