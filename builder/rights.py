"""Root's rights over what a build makes: held by root anyway, given to an ordinary user by a user namespace.

In the namespace the user is root and the ids 1..65535 are those that /etc/subuid and /etc/subgid lend. The files of a
layer then belong to lent ids: outside the namespace the user can neither remove nor own them, so whatever touches a
layer's tree runs inside. Layers of root and of a user cannot be mixed, because the same owner has another number.
"""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.errors import CommandFailed, EnvironmentLacks
from builder.run import program, run

WHOLE = "0 0 4294967295"
"""/proc/self/uid_map of the namespace that the machine started with."""

_TRY = """
mount -t tmpfs try /mnt; cd /mnt; mkdir lower upper work merged; : > lower/file
chown 65534:65534 lower/file
mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged
rm merged/file; [ ! -e merged/file ]
"""


@dataclass(frozen=True, slots=True)
class Rights:
    """How namespaces are entered here.

    prefix   arguments of unshare(1) that come before the others
    overlay  mount option under which overlayfs may keep its marks
    """

    prefix: tuple[str, ...]
    overlay: str


@functools.cache
def rights() -> Rights:
    """Ours. EnvironmentLacks with its remedy when an ordinary user gets none here."""
    if os.geteuid() == 0:
        inside = Path("/proc/self/uid_map").read_text().split() != WHOLE.split()
        return Rights((), "userxattr," if inside else "")
    found = Rights(("--user", "--map-root-user", "--map-auto"), "userxattr,")
    argv = [program("unshare", "util-linux"), *found.prefix, "--mount", "--net", "sh", "-euc", _TRY]
    try:
        run(argv, timeout=20)
    except CommandFailed as cause:
        raise _lacks(cause.tail) from None
    return found


def _lacks(said: str) -> EnvironmentLacks:
    import pwd

    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    tools = all(shutil.which(name) for name in ("newuidmap", "newgidmap"))
    lent = [_text(Path(f"/etc/{name}")) for name in ("subuid", "subgid")]
    return lacks(user, uid, tools, lent[0], lent[1], said)


def lacks(
    user: str, uid: int, tools: bool, subuid: str, subgid: str, said: str
) -> EnvironmentLacks:
    """Why there is no user namespace to build in. `said` is what the trial said, the texts are those of /etc."""
    what = "builds without root do not work here: "
    if not tools:
        return EnvironmentLacks(
            what + "newuidmap and newgidmap are missing", "apt-get install uidmap"
        )
    short = [
        name
        for name, text in (("subuid", subuid), ("subgid", subgid))
        if _lent(text, user, uid) < 65535
    ]
    if short:
        options = " ".join(f"--add-{name}s 100000-165535" for name in short)
        return EnvironmentLacks(
            f"{what}{user} has no 65535 ids in {' and '.join('/etc/' + name for name in short)}",
            f"usermod {options} {user}, as root; a range that nobody else has",
        )
    return EnvironmentLacks(
        f"{what}the kernel refuses: {said.strip().splitlines()[-1] if said.strip() else 'nothing said'}",
        "needed: Linux 5.11, and user namespaces for users (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); else run it with sudo",
    )


def _lent(text: str, user: str, uid: int) -> int:
    """The ids of the user's first range: unshare(1) takes no other."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in (user, str(uid)):
            count = rest.partition(":")[2].strip()
            return int(count) if count.isdigit() else 0
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, lent ids or not. Silent when it is gone or cannot be."""
    shutil.rmtree(path, ignore_errors=True)
    if os.geteuid() != 0 and path.exists():
        argv = [program("unshare", "util-linux"), *rights().prefix]
        run([*argv, "rm", "-rf", "--", str(path)], timeout=600, check=False)


def demand_own(folder: Path) -> None:
    """EnvironmentLacks unless the folder was made with the rights that we have."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        who = "root" if owner == 0 else f"uid {owner}"
        raise EnvironmentLacks(
            f"{folder} belongs to {who}, and layers of root and of other users cannot be mixed",
            f"build as {who}, or name another folder with PHX_HOME",
        )
