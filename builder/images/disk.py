"""The finished tree turned into what boots: an ext4 image, its kernel and its initrd, digested and described.

Bit for bit the same from the same plan. What would differ is taken away: the tree is first copied to a tmpfs in
sorted order (mke2fs takes files in the order in which a folder lists them, which a disk's own hash seed decides),
no file is younger than the plan's epoch, UUID and hash seed come from the plan's id, and the times that
mke2fs 1.47.0 stamps into each inode are set afterwards by one batch of debugfs.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shlex
import shutil
import uuid
from pathlib import Path

from builder.errors import CommandFailed, WorkFailed
from builder.images import initrd, manifest
from builder.images.manifest import Manifest
from builder.layers import LayerStore
from builder.plan import BuildPlan, Report

FILES = ("disk.raw", "vmlinuz", "initrd")
TIMEOUT = 600.0


def make(
    plan: BuildPlan, layers: tuple[str, ...], store: LayerStore, into: Path, now: datetime.datetime,
    report: Report,
) -> Manifest:  # fmt: skip
    """Write disk.raw, vmlinuz, initrd and manifest.json into the empty folder `into`.

    Raises WorkFailed if the tree is larger than the recipe's size, has no kernel, or lacks a driver.
    """
    report(f"image {plan.name}: kernel and initrd")
    with store.begin(layers) as chamber:
        listing = chamber.outside(
            'cd "$m"; ls lib/modules | head -1; cat lib/modules/*/modules.dep; echo ==; '
            "cat lib/modules/*/modules.builtin; echo ==; "
            "dpkg-query --admindir=$m/var/lib/dpkg -W "
            "-f '${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n'",
            timeout=TIMEOUT,
        ).text
        dep_text, builtin, packages = listing.split("==\n")
        version, _, dep = dep_text.partition("\n")
        order = initrd.load_order(plan.output.kernel.modules, dep, builtin)
        parts = chamber.work / "parts"
        parts.mkdir()
        modules = " ".join(shlex.quote(p) for p in order)
        report(f"image {plan.name}: filesystem")
        seed = uuid.uuid5(uuid.NAMESPACE_URL, f"philoxenia:{plan.id}")
        into_, parts_ = shlex.quote(str(into)), shlex.quote(str(parts))
        epoch = plan.output.epoch
        try:
            chamber.outside(
                f"""
cd "$m"
cp boot/vmlinuz-{version} {parts_}/vmlinuz
cp bin/busybox {parts_}/busybox || {{ echo "the tree has no busybox: install busybox-static" >&2; exit 1; }}
[ -z "{modules}" ] || (cd lib/modules/{version} && cp --parents -t {parts_} {modules})
fast={parts_}/fast; sorted=$fast/tree
mkdir "$fast"
mount -t tmpfs -o mode=755,size={2 * plan.output.size + (64 << 20)} fast "$fast"
mkdir "$sorted"
find . -type d -print0 | sort -z | (cd "$sorted" && xargs -0 mkdir -p)
copy() {{
    tar --sort=name --xattrs --xattrs-include='*' --numeric-owner --mtime=@{epoch} --clamp-mtime "$@" -c . \\
      | tar --xattrs --xattrs-include='*' --numeric-owner -x -p -C "$sorted/$here"
}}
# Two at once; every folder is there already, so neither changes the order in which a folder lists the other's files.
(here=usr/lib; cd usr/lib && copy) & second=$!
here=. copy --exclude=./usr/lib
wait $second
cd "$fast"
truncate -s {plan.output.size} disk.raw
E2FSPROGS_FAKE_TIME={epoch} mke2fs -q -t ext4 -b 4096 -I 256 -m 0 -L root -U {seed} \\
  -O ^metadata_csum_seed,^orphan_file \\
  -E hash_seed={seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 -d "$sorted" disk.raw
used=$(dumpe2fs -h disk.raw 2>/dev/null | awk -F: '/^Inode count/ {{c=$2}} /^Free inodes/ {{f=$2}} END {{print c-f}}')
awk -v n=$used -v t=@{epoch} 'BEGIN {{ for (i = 1; i <= n; i++) {{ if (i == 1 || (i > 2 && i < 11 && i != 8)) continue
  for (k = split("atime ctime crtime", f, " "); k > 0; k--) {{
    print "sif <" i "> " f[k] " " t; print "sif <" i "> " f[k] "_extra 0" }} }} }}' \\
  | E2FSPROGS_FAKE_TIME={epoch} debugfs -w -f - disk.raw >/dev/null
cp --sparse=always disk.raw {into_}/disk.raw
""",
                timeout=TIMEOUT,
            )
        except CommandFailed as cause:
            raise _failed(plan, cause) from cause
        files = {Path(p).name: (parts / p).read_bytes() for p in order}
        packed = initrd.pack((parts / "busybox").read_bytes(), files, [Path(p).name for p in order])
        (into / "initrd").write_bytes(packed)
        shutil.copyfile(parts / "vmlinuz", into / "vmlinuz")
    for name in FILES:
        (into / name).chmod(0o444)
    report(f"image {plan.name}: digest")
    digests = {name: sha256_of(into / name) for name in FILES}
    made = Manifest(
        id=manifest.identity(digests), name=plan.name, version=plan.version, summary=plan.summary,
        size=plan.output.size, stored=(into / "disk.raw").stat().st_blocks * 512, kernel=version,
        cmdline=plan.output.kernel.cmdline, digests=tuple(sorted(digests.items())),
        packages=manifest.parse_packages(packages), plan=plan.id, epoch=epoch,
        recipe_digest=plan.recipe_digest, parameters=plan.parameters, layers=layers,
        built=now.isoformat(timespec="seconds"),
    )  # fmt: skip
    (into / "manifest.json").write_text(made.to_json())
    return made


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
    if (
        "No space left" in cause.tail
        or "Cannot write" in cause.tail
        or "Could not allocate block" in cause.tail
    ):
        return WorkFailed(
            f"image {plan.name}: the tree does not fit into {plan.output.size >> 20}M (or the disk is full)",
            "raise 'size' in the recipe, or make room",
        )
    return WorkFailed(f"image {plan.name} could not be made")
