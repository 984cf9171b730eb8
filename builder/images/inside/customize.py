"""An image changed into another: files written, copied in and removed, commands run, all of it offline by libguestfs.

The new image has the old one's kernel, initrd and context, and says whose child it is and what was done. Its packages
are told as the old one's: what a command does to them is not looked for. For a change of an appliance of ours a child
recipe is the better way: it takes 2 s, and comes out the same bytes each time.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from builder.errors import InputError, Problem
from builder.images.catalog import Catalog
from builder.images.disk import sha256_of
from builder.images.inside.adopt import Open, finished
from builder.images.inside.interior import Interior
from builder.images.manifest import Manifest, Origin
from builder.plan import Report
from builder.run import run

TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A file or a folder of this machine, into the image, root's there."""

    source: Path
    path: str


@dataclass(frozen=True, slots=True)
class Put:
    """A text, into a file of root's, 0644."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A file or a link, away."""

    path: str


@dataclass(frozen=True, slots=True)
class Command:
    """Lines for `sh -eu` in the image, as root, without a network."""

    script: str


Act = Copy | Put | Remove | Command


def customize(
    parent: Manifest, acts: Sequence[Act], name: str, version: str,
    catalog: Catalog, open_: Open, now: datetime.datetime, report: Report,
) -> tuple[Manifest, bool]:  # fmt: skip
    """The new image, and whether it had to be made: the same acts on the same image are done once.

    Raises InputError for a source that is not there, WorkFailed for an act that failed; the catalog is as it was.
    """
    words = tuple(told(act) for act in acts)
    asked = json.dumps(["customize", parent.id, words, name, version])
    plan = hashlib.sha256(asked.encode()).hexdigest()
    if there := catalog.by_plan(plan):
        return there, False

    def make(into: Path) -> Manifest:
        report(f"{name}: copying {parent.name}")
        folder, disk = catalog.folder(parent), into / "disk.raw"
        run(["cp", "--sparse=always", str(folder / "disk.raw"), str(disk)], timeout=TIMEOUT)
        disk.chmod(0o600)
        for kept in dict(parent.digests).keys() - {"disk.raw"}:
            shutil.copyfile(folder / kept, into / kept)
        report(f"{name}: changing it")
        with open_(disk) as inside:
            inside.enter(parent.mounts)
            for act, what in zip(acts, words, strict=True):
                report(f"  {what}")
                _do(act, inside)
            inside.trim()
        inherited = {name: getattr(parent, name) for name in _INHERITED}
        return finished(
            into, now, **inherited, name=name, version=version, plan=plan, layers=(),
            origin=Origin("customize", parent.id, acts=words),
        )  # fmt: skip

    return catalog.add(make), True


_INHERITED = (
    "summary", "kernel", "cmdline", "packages", "recipe_digest", "parameters", "epoch", "capabilities", "max_age",
    "context", "contextualization", "agent", "formats", "wheels", "mounts", "network", "hypervisor", "requires",
)  # fmt: skip


def told(act: Act) -> str:
    """The act in words, with a digest of all that it brings. InputError for a source that is not there."""
    match act:
        case Copy(source, path):
            return f"copy {source.name} to {path} ({_digest(source)[:16]})"
        case Put(path, text):
            return f"write {path} ({hashlib.sha256(text.encode()).hexdigest()[:16]})"
        case Remove(path):
            return f"remove {path}"
        case Command(script):
            return f"run {script}"
        case _:
            assert_never(act)


def _digest(source: Path) -> str:
    """Of a file, or of a folder's files with their names."""
    if source.is_file():
        return sha256_of(source)
    if not source.is_dir():
        raise InputError(Problem("--copy", f"there is no file or folder {source}"))
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        digest.update(f"{path.relative_to(source)}\0{path.lstat().st_mode}\0".encode())
        if path.is_file() and not path.is_symlink():
            digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def _do(act: Act, inside: Interior) -> None:
    match act:
        case Copy(source, path) if source.is_dir():
            inside.put(source, path)
        case Copy(source, path):
            inside.write(path, source.read_bytes(), source.stat().st_mode & 0o777)
        case Put(path, text):
            inside.write(path, text.encode(), 0o644)
        case Remove(path):
            inside.remove(path)
        case Command(script):
            inside.run(script)
        case _:
            assert_never(act)
