"""The finished tree turned into what boots: a disk, its kernel and its initrd, digested and described.

Bit for bit the same from the same plan: names are sorted, no file is younger than the plan's epoch, UUID and hash seed
come from the plan's id, and ext4 is written by us (builder/images/ext4). The tree is read once and the image is written
once, digested on the way; neither is ever in memory.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shlex
import shutil
import sys
import uuid
from pathlib import Path

from builder.errors import CommandFailed, WorkFailed
from builder.images import initrd, manifest, root
from builder.images.manifest import Manifest, WheelFact
from builder.images.sbom import inventory, provenance
from builder.layers import LayerStore
from builder.plan import BuildPlan, Report

FILES = ("disk.raw", "vmlinuz", "initrd")
"""What every image has. That of a Xen host has the hypervisor too."""
HYPERVISOR = "xen"
TIMEOUT = 600.0

_FILES = """
cd "$m"
cp boot/vmlinuz-{version} {parts}/vmlinuz
cp bin/busybox {parts}/busybox || {{ echo "the tree has no busybox: install busybox-static" >&2; exit 1; }}
[ -z "{modules}" ] || (cd lib/modules/{version} && cp --parents -t {parts} {modules})
{hypervisor}
cd /
{python} -P -m builder.images.sbom.look "$m" > {parts}/inventory & looking=$!
{write}
wait $looking
"""
"""What an image takes from the merged tree."""

_HYPERVISOR = """
set -- boot/xen-*.gz
[ -f "$1" ] && [ $# -eq 1 ] || {{ echo "the tree has not one boot/xen-*.gz but: $*" >&2; exit 1; }}
gzip -dc "$1" > {parts}/xen
"""
"""As an ELF file: what boots it by Multiboot, as QEMU does, does not unpack it."""


def make(
    plan: BuildPlan, layers: tuple[str, ...], store: LayerStore, into: Path, now: datetime.datetime,
    report: Report,
) -> Manifest:  # fmt: skip
    """Write disk.raw, vmlinuz, initrd, manifest.json and what describes them into the empty folder `into`; the file xen
    as well when the recipe has a hypervisor.

    Raises WorkFailed if the tree is larger than the recipe's size, has no kernel or hypervisor, or lacks a driver.
    """
    report(f"image {plan.name}: kernel and initrd")
    hypervisor = plan.output.kernel.hypervisor
    kept = (*FILES, HYPERVISOR) if hypervisor else FILES
    with store.begin(layers) as chamber:
        listing = chamber.outside(
            'cd "$m"; ls lib/modules | head -1; cat lib/modules/*/modules.dep; echo ==; '
            "cat lib/modules/*/modules.builtin; echo ==; "
            "grep -hE '^CONFIG_(XEN_PV|PVH|XEN_PVHVM)=y' boot/config-* || :; echo ==; "
            "sed -n 's/^VERSION = //p' usr/lib/philoxenia/agent.py 2>/dev/null || :; echo ==; "
            "dpkg-query --admindir=$m/var/lib/dpkg -W "
            "-f '${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n'",
            timeout=TIMEOUT,
        ).text
        dep_text, builtin, config, agent, packages = listing.split("==\n")
        version, _, dep = dep_text.partition("\n")
        order = initrd.load_order(plan.output.modules, dep, builtin)
        parts = chamber.work / "parts"
        parts.mkdir()
        report(f"image {plan.name}: filesystem")
        try:
            digest = chamber.outside(
                _FILES.format(
                    version=version, modules=" ".join(shlex.quote(p) for p in order),
                    parts=shlex.quote(str(parts)), python=shlex.quote(sys.executable),
                    hypervisor=_HYPERVISOR.format(parts=shlex.quote(str(parts))) if hypervisor else "",
                    write=root.command(plan.output, seed(plan.id), parts, into / "disk.raw"),
                ),
                timeout=TIMEOUT,
            ).text.strip()  # fmt: skip
        except CommandFailed as cause:
            raise _failed(plan, cause) from cause
        root.finish(plan, seed(plan.id), parts, into / "disk.raw")
        files = {Path(p).name: (parts / p).read_bytes() for p in order}
        packed = initrd.pack((parts / "busybox").read_bytes(), files, [Path(p).name for p in order])
        (into / "initrd").write_bytes(packed)
        for name in kept[3:]:
            shutil.copyfile(parts / name, into / name)
        shutil.copyfile(parts / "vmlinuz", into / "vmlinuz")
        shutil.copyfile(parts / "inventory", into / inventory.FILE)
    for name in kept:
        (into / name).chmod(0o444)
    digests = {name: sha256_of(into / name) for name in kept[1:]}
    digests["disk.raw"] = digest or sha256_of(into / "disk.raw")
    told = provenance.statement(plan, digests, provenance.host())
    (into / provenance.FILE).write_text(told)
    papers = {name: sha256_of(into / name) for name in (inventory.FILE, provenance.FILE)}
    installed = manifest.parse_packages(packages)
    made = Manifest(
        id=manifest.identity(digests), name=plan.name, version=plan.version, summary=plan.summary,
        size=(into / "disk.raw").stat().st_size, stored=(into / "disk.raw").stat().st_blocks * 512, kernel=version,
        cmdline=plan.cmdline, digests=tuple(sorted(digests.items())),
        packages=installed, plan=plan.id, epoch=plan.output.epoch,
        recipe_digest=plan.recipe_digest, parameters=plan.parameters, layers=layers,
        built=now.isoformat(timespec="seconds"), capabilities=plan.capabilities,
        wheels=tuple(WheelFact(w.name, w.version, w.sha256) for w in plan.wheels()),
        max_age=plan.max_age or 0, context=json.loads(plan.context or "{}"),
        papers=tuple(sorted(papers.items())),
        mounts=root.mounts(plan.output), hypervisor=hypervisor.cmdline if hypervisor else None,
        contextualization=manifest.contextualization(bool(agent), installed),
        agent=int(agent or 0), formats=plan.formats, requires=plan.requires,
        virtualization=manifest.virtualization(config),
    )  # fmt: skip
    (into / "manifest.json").write_text(made.to_json())
    return made


def seed(plan: str) -> uuid.UUID:
    """The UUID of what is made from a plan."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"philoxenia:{plan}")


def sha256_of(path: Path) -> str:
    """Of the whole file; its holes are not read (the kernel would fill the page cache with zeros)."""
    digest = hashlib.sha256()
    zeros = bytes(1 << 20)
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                data = size
            for start in range(at, data, len(zeros)):
                digest.update(zeros[: min(len(zeros), data - start)])
            if data == size:
                break
            at = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            os.lseek(file.fileno(), data, os.SEEK_SET)
            while data < at:
                block = file.read(min(1 << 20, at - data))
                digest.update(block)
                data += len(block)
    return digest.hexdigest()


def _failed(plan: BuildPlan, cause: CommandFailed) -> WorkFailed:
    if "No space left" in cause.tail:
        return WorkFailed(
            f"image {plan.name}: the tree does not fit into {plan.output.size >> 20}M (or the disk is full)",
            "raise 'size' in the recipe, or make room",
        )
    return WorkFailed(f"image {plan.name} could not be made")
