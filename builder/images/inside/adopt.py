"""A disk that we did not build, made an image of the catalog: looked into, converted, its kernel and initrd beside it.

qemu-img reads the file and libguestfs looks inside; our own kernel never sees its filesystems. A file that would make
qemu-img read others (a backing file, a VMDK's extents elsewhere) is refused: it could name any file of this machine.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from builder.errors import CommandFailed, InputError, Problem, WorkFailed, close
from builder.images import manifest
from builder.images.catalog import Catalog
from builder.images.disk import FILES, HYPERVISOR, sha256_of
from builder.images.inside import foreign
from builder.images.inside.interior import Entry, Interior, System
from builder.images.manifest import Manifest, Origin
from builder.plan import Report
from builder.run import run

FORMATS = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "vhd": "vpc"}
"""Our words and qemu-img's."""
TIMEOUT = 1800.0

Open = Callable[[Path], AbstractContextManager[Interior]]
"""Opens a raw disk to be changed."""


def adopt(
    file: Path, form: str | None, name: str, version: str | None, cmdline: str | None,
    catalog: Catalog, open_: Open, now: datetime.datetime, report: Report,
) -> tuple[Manifest, bool]:  # fmt: skip
    """The image, and whether it had to be made: the same file under the same name is imported once.

    form     one of FORMATS; None: what qemu-img takes it for
    version  None: the system's own
    cmdline  kernel parameters besides its root's; None: those of its GRUB
    Raises InputError for a file that is no such disk, WorkFailed when there is not one system with a kernel on it.
    """
    form = _probed(file, form)
    report(f"{file.name}: digest")
    digest = sha256_of(file)
    asked = json.dumps(["import", digest, form, name, version, cmdline])
    plan = hashlib.sha256(asked.encode()).hexdigest()
    if there := catalog.by_plan(plan):
        return there, False

    def make(into: Path) -> Manifest:
        disk = into / "disk.raw"
        report(f"{file.name}: converting from {form}")
        try:
            run(
                ["qemu-img", "convert", "-f", FORMATS[form], "-O", "raw", "-S", "4k", str(file), str(disk)],
                timeout=TIMEOUT,
            )  # fmt: skip
        except CommandFailed as cause:
            raise WorkFailed(f"{file} cannot be converted") from cause
        report(f"{file.name}: looking inside")
        with open_(disk) as inside:
            system = _only(file, inside.systems())
            known = _look(inside, system, cmdline, into)
            report(f"{file.name}: giving unused blocks back")
            inside.trim()
        report(f"{file.name}: digest of the image")
        return finished(
            into, now, **{"epoch": int(file.stat().st_mtime), **known},
            name=name, version=version or system.version, summary=f"{system.product}, imported",
            plan=plan, recipe_digest="", parameters=(), layers=(),
            origin=Origin("import", digest, file.name, form),
        )  # fmt: skip

    return catalog.add(make), True


def finished(into: Path, now: datetime.datetime, **known: Any) -> Manifest:
    """The manifest of the files that are in `into`, written beside them."""
    there = [name for name in (*FILES, HYPERVISOR) if name in FILES or (into / name).exists()]
    for name in there:
        (into / name).chmod(0o444)
    digests = {name: sha256_of(into / name) for name in there}
    disk = (into / "disk.raw").stat()
    made = Manifest(
        id=manifest.identity(digests), digests=tuple(sorted(digests.items())), size=disk.st_size,
        stored=disk.st_blocks * 512, built=now.isoformat(timespec="seconds"), **known,
    )  # fmt: skip
    (into / "manifest.json").write_text(made.to_json())
    return made


def _look(inside: Interior, system: System, cmdline: str | None, into: Path) -> dict[str, Any]:
    """What the manifest says of the system; its kernel and its initrd are in `into` afterwards."""
    inside.enter(system.mounts)
    boot = foreign.boot(e.name for e in _listed(inside, "/boot"))
    inside.take(boot.kernel, into / "vmlinuz")
    inside.take(boot.initrd, into / "initrd")
    words = cmdline if cmdline is not None else foreign.parameters(_grub(inside))
    who = manifest.contextualization(foreign.has_agent(inside), system.packages)
    network, dated = foreign.network(inside), foreign.dated(inside)
    if who == "none" and network == "ifupdown" and "net.ifnames=" not in words:
        # interfaces(5) has no way to name a card by its address: the first is eth0 then.
        words = f"{words} net.ifnames=0"
    known = {
        "kernel": boot.version, "cmdline": f"{foreign.root(system)} {words}".strip(),
        "virtualization": manifest.virtualization(_configuration(inside, boot.version)),
        "packages": system.packages, "mounts": system.mounts, "network": network, "contextualization": who,
    }  # fmt: skip
    return known | ({"epoch": dated} if dated else {})


def _configuration(inside: Interior, version: str) -> str:
    """The kernel's; of one that does not bring it along, nothing is known."""
    try:
        return inside.read(f"/boot/config-{version}").decode(errors="replace")
    except WorkFailed:
        return ""


def _only(file: Path, found: tuple[System, ...]) -> System:
    if len(found) != 1:
        seen = ", ".join(system.product for system in found)
        what = (
            f"{file} has {len(found)} systems: {seen}" if found else f"{file} has no system on it"
        )
        raise WorkFailed(what, "an image is a disk with one Linux system")
    return found[0]


def _listed(inside: Interior, folder: str) -> tuple[Entry, ...]:
    with contextlib.suppress(WorkFailed):
        return inside.list(folder)
    return ()


def _grub(inside: Interior) -> str:
    with contextlib.suppress(WorkFailed):
        return inside.read("/etc/default/grub").decode(errors="replace")
    return ""


def _probed(file: Path, form: str | None) -> str:
    """Its format, in our words. InputError for a file that is none of FORMATS, or that is not alone."""
    if not file.is_file():
        raise InputError(Problem("", f"there is no file {file}"))
    if form is not None and form not in FORMATS:
        raise InputError(Problem("--format", f"unknown format '{form}'", close(form, FORMATS)))
    given = ["-f", FORMATS[form]] if form else []
    try:
        told = json.loads(
            run(["qemu-img", "info", "--output=json", *given, str(file)], timeout=60).text
        )
    except CommandFailed as cause:
        said = cause.tail.strip().rpartition(": ")[2]
        raise InputError(Problem("", f"{file} is no {form or 'disk'}: {said}")) from None
    if others := sorted(_others(told, file)):
        hint = "make it one file first: qemu-img convert"
        raise InputError(
            Problem("", f"{file} is not alone: it stands on {', '.join(others)}", hint)
        )
    words = {theirs: ours for ours, theirs in FORMATS.items()}
    if told["format"] not in words:
        what = f"{file} has the format {told['format']}"
        raise InputError(
            Problem("", what, f"known: {', '.join(FORMATS)}; qemu-img convert makes one")
        )
    return words[told["format"]]


def _others(told: dict[str, Any], file: Path) -> set[str]:
    """The files that a disk's file names besides itself."""
    data = told.get("format-specific", {}).get("data", {})
    named = [told.get("backing-filename"), data.get("data-file")]
    named += [extent.get("filename") for extent in data.get("extents", ())]
    return {name for name in named if name and Path(name).absolute() != file.absolute()}
