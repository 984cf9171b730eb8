"""What each kind of step does in its chamber. Who changes what a step does raises its `rev` (builder/steps.py)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import assert_never

from builder import placing
from builder.chamber import Chamber
from builder.errors import CommandFailed, TimedOut
from builder.language.flat import Placed
from builder.packages.scripts import Ear, blamed
from builder.plan import Report
from builder.provisions import Caches, at_hand, offer
from builder.secrets import Secret
from builder.steps import (
    Accounts,
    Bootstrap,
    Install,
    Pip,
    Script,
    Seal,
    Step,
    Switch,
    Write,
)

STEP_TIMEOUT = 1800.0
"""Seconds that any one step may take."""
SILENCE = 600.0
"""Seconds without a word from a package's scripts after which they count as hanging."""

LEAN = (
    # What a guest never reads: about half of a minimal system's files. Copyright files stay.
    "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/info/*",
    "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
)  # fmt: skip

SEAL = """
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/dbus/machine-id /etc/hostname
rm -f /etc/resolv.conf /root/.bash_history /var/lib/systemd/random-seed /etc/.pwd.lock
: > /etc/machine-id
rm -rf /var/lib/apt/lists /var/cache/apt /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
rm -f /var/lib/dpkg/*-old /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow-
find /var/log -type f -delete
find /boot -maxdepth 1 -name 'initrd.img*' -delete
"""


def execute(
    step: Step,
    chamber: Chamber,
    caches: Caches,
    log: Path,
    epoch: int,
    report: Report = lambda _: None,
    secrets: Mapping[str, Secret] = MappingProxyType({}),
) -> None:
    """Run one step in its chamber; `epoch` is its SOURCE_DATE_EPOCH. Raises CommandFailed or TimedOut.

    secrets  all that the step's names; more do not hurt
    """
    match step:
        case Bootstrap():
            _bootstrap(step, chamber, caches, log, report)
        case Install():
            _packages(
                _APT.format(
                    names=" ".join(f"{p.name}={p.version}" for p in step.locked),
                    lean=" ".join(f"-o 'Dpkg::Options::=--{option}'" for option in LEAN),
                ),
                chamber, report, binds=at_hand(step, chamber, caches), log=log, epoch=epoch,
            )  # fmt: skip
        case Pip():
            chamber.inside(
                _PIP.format(installer=step.installer.file), log=log, epoch=epoch,
                binds=at_hand(step, chamber, caches), timeout=STEP_TIMEOUT,
            )  # fmt: skip
        case Accounts():
            chamber.inside(_accounts(step), timeout=STEP_TIMEOUT, log=log, epoch=epoch)
        case Write():
            owners = {f.owner for f in step.files} | {d.owner for d in step.directories}
            known = "".join(
                f'id -u {o} >/dev/null 2>&1 || {{ echo "no user {o} in the image" >&2; exit 1; }}\n'
                for o in sorted({o.partition(":")[0] for o in owners} - {"root"})
            ) + "".join(
                f'grep -q "^{g}:" /etc/group || {{ echo "no group {g} in the image" >&2; exit 1; }}\n'
                for g in sorted({o.rpartition(":")[2] for o in owners} - {"root"})
            )
            # Only directories that the recipe names are in the tar: what is there already gets their owner and mode.
            untar = "tar -x -p -C / --delay-directory-restore --keep-directory-symlink"
            placed = [f for f in step.files if isinstance(f, Placed)]
            binds, script = at_hand(step, chamber, caches), f"umask 022; exec {untar}"
            if step.fetched():
                script = f"umask 022; {untar}\n" + placing.copies(step.fetched(), epoch)
            chamber.inside(
                known + script, binds=binds, stdin=placing.tar_of(placed, epoch, step.directories),
                timeout=STEP_TIMEOUT, log=log,
            )  # fmt: skip
        case Switch():
            lines = [f"systemctl {verb} {' '.join(units)}"
                     for verb, units in (("enable", step.enable), ("disable", step.disable),
                                         ("mask", step.mask)) if units]  # fmt: skip
            chamber.inside("\n".join(lines), timeout=STEP_TIMEOUT, log=log, epoch=epoch)
        case Script():
            # A guest's own PATH: what pip or a file of the recipe put there is found.
            script = step.script if step.user == "root" else _as_user(step)
            script = f"export PATH=/usr/local/sbin:/usr/local/bin:$PATH; {script}"
            if not step.secrets:
                chamber.inside(script, timeout=STEP_TIMEOUT, log=log, epoch=epoch)
                return
            needed = {name: secrets[name] for name in step.secrets}
            chamber.inside(
                _with_secrets(script), stdin=placing.secret_files(needed, step.user, epoch),
                mask=tuple(needed.values()), timeout=STEP_TIMEOUT, log=log, epoch=epoch,
            )  # fmt: skip
        case Seal():
            chamber.inside(SEAL, timeout=STEP_TIMEOUT, log=log)
        case _:
            assert_never(step)


_APT = """
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
mkdir -p /run/apt/lists/partial /run/apt/archives/partial
echo 'deb [trusted=yes] copy:/run/packages ./' > /run/apt/sources.list
cat > /run/apt.conf <<END
APT::Sandbox::User "root"; Acquire::Languages "none"; Dir::Etc::SourceList "/run/apt/sources.list";
Dir::Etc::SourceParts "-"; Dir::State::Lists "/run/apt/lists"; Dir::Cache::archives "/run/apt/archives";
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; Dpkg::Use-Pty "false";
END
export APT_CONFIG=/run/apt.conf
apt-get -q update
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold {lean} install {names}
"""


_PIP = """
command -v python3 >/dev/null || {{ echo "no python3 in the image: name the package python3" >&2; exit 1; }}
# The pip that is locked runs from its wheel. In the order of the lock, with the epoch that the step has: compiled files
# then hold the digest of their source instead of its time (PEP 552).
export PYTHONPATH=/run/wheels/{installer} PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
exec python3 -m pip --isolated --disable-pip-version-check --no-input --no-cache-dir install --quiet \
    --no-index --find-links /run/wheels --require-hashes --no-deps --ignore-installed \
    --break-system-packages --root-user-action=ignore --requirement /run/wheels/requirements.txt
"""


_CONFIGURE = r"""
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
cd /
version=$(dpkg-query -W -f '${Version}' dpkg)
# base-passwd first: it makes the users that the others' scripts give files to.
for script in base-passwd.preinst $(cd /var/lib/dpkg/info; ls *.preinst | grep -v '^base-passwd\.'); do
    package=${script%.preinst}
    echo "preinst of $package"
    # As dpkg does it: control files in tmp.ci, the script started there (debconf learns the package's name from them).
    rm -rf /var/lib/dpkg/tmp.ci; mkdir /var/lib/dpkg/tmp.ci
    for file in /var/lib/dpkg/info/"$package".*; do cp -p "$file" /var/lib/dpkg/tmp.ci/"${file##*.}"; done
    printf 'Package: %s\n' "${package%%:*}" > /var/lib/dpkg/tmp.ci/control
    DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_RUNNING_VERSION=$version DPKG_MAINTSCRIPT_ARCH=amd64 \
    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=${package%%:*} DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
        /var/lib/dpkg/tmp.ci/preinst install </dev/null || { echo "the preinst script of $package failed" >&2; exit 1; }
    rm -rf /var/lib/dpkg/tmp.ci
done
# The initrd is ours, and two runs of update-initramfs would cost 20 s.
dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs
ln -s /bin/true /usr/sbin/update-initramfs
# Others rely on what is essential without naming it (passwd's script reads login's configuration): that comes first.
dpkg --force-depends --configure $(dpkg-query -W -f '${Essential} ${Package}\n' | sed -n 's/^yes //p') </dev/null
dpkg --configure -a </dev/null
rm /usr/sbin/policy-rc.d
"""


def _bootstrap(
    step: Bootstrap, chamber: Chamber, caches: Caches, log: Path, report: Report
) -> None:
    """Unpack side by side, configure once. `oracle` makes the same tree as mmdebstrap does."""
    offered = shlex.quote(str(offer(step.locked, step.suite, chamber, caches)))
    lean = " ".join(shlex.quote(rule) for rule in LEAN)
    python = shlex.quote(sys.executable)
    chamber.outside(
        f'exec {python} -m builder.packages.unpack "$m" {offered} {step.epoch} {lean}',
        timeout=STEP_TIMEOUT, log=log, epoch=step.epoch,
    )  # fmt: skip
    # The image's own list of sources stays empty: which mirror a build used must not change its bytes.
    sources = f'echo "# deb http://MIRROR/debian {step.suite} main" > /etc/apt/sources.list\n'
    _packages(_CONFIGURE + sources, chamber, report, log=log, epoch=step.epoch)


def oracle(step: Bootstrap, chamber: Chamber, caches: Caches, log: Path) -> None:
    """The step's tree as mmdebstrap makes it: slower, and what ours is measured against."""
    offered = offer(step.locked, step.suite, chamber, caches)
    names = ",".join(f"{p.name}={p.version}" for p in step.locked)
    dpkg = " ".join(f"--dpkgopt='{option}'" for option in LEAN)
    chamber.outside(
        f"""
exec mmdebstrap --variant=minbase --mode=root --format=directory --include={names} \\
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \\
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \\
  --aptopt='APT::Sandbox::User "root"' {dpkg} \\
  --essential-hook='chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs' \\
  --essential-hook='ln -s /bin/true "$1"/usr/sbin/update-initramfs' \\
  --customize-hook='rm -f "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/apt/apt.conf.d/99mmdebstrap' \\
  --customize-hook='echo "# deb http://MIRROR/debian {step.suite} main" > "$1"/etc/apt/sources.list' \\
  {step.suite} "$m" 'deb [trusted=yes] copy:{offered} ./'
""",
        timeout=STEP_TIMEOUT, log=log, epoch=step.epoch,
    )  # fmt: skip


def _packages(
    script: str, chamber: Chamber, report: Report, log: Path, epoch: int,
    binds: Sequence[tuple[Path, str]] = (),
) -> None:  # fmt: skip
    """Let apt or dpkg work; ScriptFailed where a maintainer script failed or hangs."""
    ear = Ear(report)
    try:
        # In one stream, so that what a script says stands before what dpkg says of it.
        chamber.inside(
            f"exec 2>&1\n{script}", timeout=STEP_TIMEOUT, silence=SILENCE, binds=binds, log=log,
            epoch=epoch, on_line=ear,
        )  # fmt: skip
    except TimedOut as cause:
        raise ear.late(cause) from None
    except CommandFailed as cause:
        raise blamed(cause) from None


def _accounts(step: Accounts) -> str:
    """All groups of their own first, so that one user may be in another's; in the order of uids."""
    users = sorted(step.users, key=lambda u: u.uid)
    lines = [
        f'command -v {tool} >/dev/null || {{ echo "no {tool} in the image: install passwd" >&2; exit 1; }}'
        for tool in ("groupadd", "useradd")
    ]
    for u in users:
        if u.gid is not None:
            system = "--system " if u.system else ""
            lines.append(f"groupadd {system}--gid {u.gid} {u.name}")
    groups = {g for u in users for g in (u.group, *u.groups)}
    lines += [
        f'grep -q "^{g}:" /etc/group || {{ echo "no group {g} in the image" >&2; exit 1; }}'
        for g in sorted(groups)
    ]
    for u in users:
        # '*' is no password's hash: nobody enters by one, and sshd does not take the user for locked.
        words = ["useradd", "--no-log-init", "--uid", str(u.uid), "--gid", u.group, "--home-dir", u.home,
                 "--shell", u.shell, "--password", "*", "--comment", u.summary]  # fmt: skip
        words += ["--groups", ",".join(sorted(u.groups))] if u.groups else []
        words += ["--system", "--no-create-home"] if u.system else ["--create-home"]
        lines.append(shlex.join([*words, u.name]))
    return "\n".join(lines)


def _with_secrets(script: str) -> str:
    """They come by standard input into the chamber's /run, a tmpfs: no argument, variable or disk has them."""
    return f"umask 022; tar -x -p -C /; exec </dev/null\nexec sh -euc {shlex.quote(script)}"


def _as_user(step: Script) -> str:
    user = step.user
    return (
        f'id -u {user} >/dev/null 2>&1 || {{ echo "no user {user} in the image" >&2; exit 1; }}\n'
        f'export HOME="$(getent passwd {user} | cut -d: -f6)" USER={user} LOGNAME={user}\n'
        f'exec setpriv --reuid={user} --regid="$(id -g {user})" --init-groups '
        f"sh -euc {shlex.quote(step.script)}"
    )
