"""A build plan carried out: every layer that is missing is made on top of those that are there.

`assemble` may die anywhere; run again, it goes on after the last layer that was committed.
"""

from __future__ import annotations

import io
import re
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from builder.errors import CommandFailed, Problem, TimedOut, WorkFailed
from builder.layers import Chamber, LayerInfo, LayerStore
from builder.plan import (
    Bootstrap,
    BuildPlan,
    Install,
    Report,
    Script,
    Seal,
    Step,
    Switch,
    Write,
)
from builder.recipe import Placed

EPOCH = 1_700_000_000
"""Seconds: the time of every file that we write, so that the same plan gives the same bytes."""

STEP_TIMEOUT = 1800.0
"""Seconds that any one step may take."""

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


@dataclass(frozen=True, slots=True)
class Caches:
    """Folders that outlive builds: fetched packages, the mirror's lists, logs."""

    packages: Path
    lists: Path
    logs: Path

    def make(self) -> None:
        for folder in (self.packages / "partial", self.lists / "partial", self.logs):
            folder.mkdir(parents=True, exist_ok=True)


def assemble(plan: BuildPlan, store: LayerStore, caches: Caches, report: Report) -> tuple[str, ...]:
    """Make the plan's missing layers; all layer ids, oldest first.

    Raises WorkFailed naming the step; the layers before it are kept and the next run goes on there.
    """
    caches.make()
    ids = plan.layers()
    done = 0
    while done < len(ids) and store.has(ids[done]):
        done += 1
    if done:
        report(f"layers 1-{done} of {len(ids)} are there already")
    log = caches.logs / f"build-{plan.name}-{plan.id[:12]}.log"
    for n in range(done, len(ids)):
        step, layer = plan.steps[n], ids[n]
        title = f"layer {n + 1}/{len(ids)} {step.title()}"
        with store.making(layer, lambda t=title: report(f"{t}: waiting for another build")):  # type: ignore[misc]
            if store.has(layer):
                continue
            report(title)
            started = time.monotonic()
            with store.begin(ids[:n]) as chamber:
                try:
                    execute(step, chamber, caches, log, report)
                except (CommandFailed, TimedOut) as cause:
                    raise _failed(
                        f"step {n + 1}/{len(ids)} failed: {step.title()}", step, cause, log
                    ) from cause
                seconds = round(time.monotonic() - started, 2)
                parent = ids[n - 1] if n else ""
                store.commit(chamber, LayerInfo(layer, parent, step.kind, step.title(), seconds))
    return ids


def execute(
    step: Step, chamber: Chamber, caches: Caches, log: Path, report: Report = lambda _: None
) -> None:
    """Run one step in its chamber. Raises CommandFailed or TimedOut."""
    match step:
        case Bootstrap():
            _bootstrap(step, chamber, caches, log, report)
        case Install():
            lists = [
                (caches.packages, "/var/cache/apt/archives"),
                (caches.lists, "/var/lib/apt/lists"),
            ]
            names = " ".join(step.packages)
            chamber.inside(
                _APT.format(names=names), timeout=STEP_TIMEOUT, network=True, binds=lists, log=log,
                on_line=_apt_progress(report),
            )  # fmt: skip
        case Write():
            owners = {name for f in step.files for name in f.owner.split(":")[:1]}
            known = "".join(
                f'id -u {o} >/dev/null 2>&1 || {{ echo "no user {o} in the image" >&2; exit 1; }}\n'
                for o in sorted(owners - {"root"})
            )
            chamber.inside(
                known + "umask 022; exec tar -x -p -C / --no-overwrite-dir --keep-directory-symlink",
                stdin=tar_of(step.files), timeout=STEP_TIMEOUT, log=log,
            )  # fmt: skip
        case Switch():
            lines = [f"systemctl {verb} {' '.join(units)}"
                     for verb, units in (("enable", step.enable), ("disable", step.disable),
                                         ("mask", step.mask)) if units]  # fmt: skip
            chamber.inside("\n".join(lines), timeout=STEP_TIMEOUT, log=log)
        case Script():
            chamber.inside(step.script, timeout=STEP_TIMEOUT, log=log)
        case Seal():
            chamber.inside(SEAL, timeout=STEP_TIMEOUT, log=log)
        case _:
            assert_never(step)


_APT = """
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
printf 'APT::Sandbox::User "root";\\nAcquire::Languages "none";\\n' > /run/apt.conf; export APT_CONFIG=/run/apt.conf
apt-get -q update || echo "the mirror does not answer, going on with the lists at hand" >&2
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install {names}
"""


def _bootstrap(
    step: Bootstrap, chamber: Chamber, caches: Caches, log: Path, report: Report
) -> None:
    sources = chamber.work / "debian.sources"
    sources.write_text(step.sources)
    dpkg = " ".join(f"--dpkgopt={option}" for option in LEAN)
    # The package cache is shared with the tree while mmdebstrap works; it must not be cleaned by it.
    # update-initramfs is diverted: the initrd is ours, and two runs of it would cost 20 s (images.md).
    chamber.outside(
        f"""
exec mmdebstrap --variant=minbase --mode=root --format=directory --include={",".join(step.packages)} \\
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \\
  --aptopt='APT::Sandbox::User "root"' {dpkg} \\
  --skip=download/empty --skip=essential/unlink --skip=cleanup/apt/cache \\
  --setup-hook='mkdir -p "$1"/var/cache/apt/archives && mount --bind {caches.packages} "$1"/var/cache/apt/archives' \\
  --essential-hook='chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs' \\
  --essential-hook='ln -s /bin/true "$1"/usr/sbin/update-initramfs' \\
  --customize-hook='umount "$1"/var/cache/apt/archives' \\
  {step.suite} "$m" {sources}
""",
        timeout=STEP_TIMEOUT, network=True, log=log, on_line=_apt_progress(report),
    )  # fmt: skip


def _apt_progress(report: Report) -> Callable[[str], None]:
    def hear(line: str) -> None:
        if re.match(r"(I: |Setting up |Unpacking )", line):
            report("  " + line.removeprefix("I: ")[:100])

    return hear


def tar_of(files: Sequence[Placed]) -> bytes:
    """The files as a tar in the order of their paths; owners by name, every time EPOCH."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(files, key=lambda f: f.path):
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(file.data), file.mode, EPOCH
            user, _, group = file.owner.partition(":")
            entry.uname, entry.gname = user, group or user
            tar.addfile(entry, io.BytesIO(file.data))
    return packed.getvalue()


_ABSENT = re.compile(
    r"Unable to locate package (?P<a>\S+)"
    r"|Version '[^']*' for '(?P<b>[^']+)' was not found"
    r"|Package '?(?P<c>[a-z0-9+.-]+)'? has no installation candidate"
    r"|Couldn't find any package by (?:glob|regex) '(?P<d>[^']+)'"
)
_UNREACHABLE = re.compile(
    r"Could not (?:resolve|connect)|Temporary failure resolving|Connection (?:refused|timed out)"
    r"|Failed to fetch|Unable to fetch|Could not open file|Network is unreachable"
)


def _failed(what: str, step: Step, cause: CommandFailed | TimedOut, log: Path) -> WorkFailed:
    """The failure in the user's terms: which package and line, which full disk, which silent mirror."""
    said = cause.tail if isinstance(cause, CommandFailed) else ""
    if isinstance(step, Bootstrap | Install):
        absent = next((next(g for g in m.groups() if g) for m in _ABSENT.finditer(said)), None)
        if absent:
            asked = dict(
                zip((p.partition("=")[0] for p in step.packages), step.asked, strict=False)
            )
            place = asked.get(absent, "")
            return WorkFailed(
                str(
                    Problem(
                        place, f"no package '{absent}' in Debian's archive as this machine sees it"
                    )
                ),
                "check the spelling and version with apt-cache policy, or run apt-get update",
            )
    if "No space left on device" in said:
        return WorkFailed(what, "the disk is full; make room, or name another folder with PHX_HOME")
    if _UNREACHABLE.search(said):
        return WorkFailed(what, "the mirror in this machine's apt configuration does not answer")
    return WorkFailed(what, f"everything it said is in {log}; finished layers are kept")
