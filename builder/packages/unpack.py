"""Locked packages turned into a tree that dpkg can configure: every file unpacked once, dpkg's database written for it.

What apt does in two passes over the essential packages and one over the rest, fsync by fsync, is done here side by
side on all cores: each package's data goes straight to the tree, its configuration files as NAME.dpkg-new, its control
files to /var/lib/dpkg/info, and the status says `unpacked`. From there on it is dpkg's own work: the maintainer
scripts, the conffiles, the triggers. mmdebstrap stays the oracle: tests/vm/test_unpack.py compares the two trees.

Runs as a program inside a step's chamber: `python -m builder.packages.unpack TREE ARCHIVE EPOCH [EXCLUDE...]`. Each
worker is confined to the tree (chroot) before it reads the first package, so that no link in one leads outside.
Formats: deb(5), dpkg's doc/triggers.txt and lib/dpkg/fields.c (status of conffiles).
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import multiprocessing
import os
import re
import stat
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

INFO = "/var/lib/dpkg/info"
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Links to usr/NAME that Debian's merged /usr wants before the first file."""


@dataclass(slots=True)
class Unpacked:
    """What one package put into the tree and says of itself."""

    name: str
    control: str
    conffiles: list[str]
    triggers: str
    folders: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(path, mode, uid, gid)"""


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the members of an ar archive."""
    at = 8
    while at + 60 <= len(data):
        name = data[at : at + 16].decode().strip().rstrip("/")
        size = int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def tar_in(deb: bytes, stem: str) -> tarfile.TarFile:
    """The control or data tar of a package. ValueError for a compression that is not xz, gz or none."""
    for name, content in members(deb):
        if name.startswith(stem):
            kind = name.removeprefix(stem)
            # As it is read: whole, a kernel's would take 100 MB in memory for each worker.
            packed: IO[bytes] = io.BytesIO(content)
            if kind == ".xz":
                packed = cast("IO[bytes]", lzma.LZMAFile(packed))  # noqa: SIM115 (the tar is the caller's)
            elif kind == ".gz":
                packed = cast("IO[bytes]", gzip.GzipFile(fileobj=packed))
            elif kind:
                raise ValueError(f"{stem} is compressed as {kind}")
            return tarfile.open(fileobj=packed, mode="r:")
    raise ValueError(f"there is no {stem}")


def excluded(path: str, excludes: Sequence[str], passage: bool) -> bool:
    """dpkg's path-exclude/path-include: the last pattern that matches decides.

    passage  the path is a folder or a link: it stays when something below it may be included (dpkg's filters.c)
    """
    out = False
    for rule in excludes:
        kind, _, pattern = rule.partition("=")
        if fnmatch.fnmatchcase(path, pattern):
            out = kind == "path-exclude"
    if out and passage:
        for rule in excludes:
            kind, _, pattern = rule.partition("=")
            base = re.split(r"[*?[\\]", pattern)[0].rstrip("/")
            if kind == "path-include" and path.startswith(base + "/"):
                return False
    return out


def unpack(deb: bytes, excludes: Sequence[str]) -> Unpacked:
    """One package into the tree that is our root."""
    control: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    with tar_in(deb, "control.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                name = member.name.removeprefix("./")
                control[name], modes[name] = file.read(), member.mode
    text = control.pop("control").decode()
    fields = dict(
        line.partition(": ")[::2] for line in text.splitlines() if not line.startswith(" ")
    )
    name = fields["Package"]
    named = f"{name}:{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else name
    conffiles = control.get("conffiles", b"").decode().split("\n")
    done = Unpacked(name, text, [c for c in conffiles if c], control.get("triggers", b"").decode())
    keep = set(done.conffiles)
    listed = []
    with tar_in(deb, "data.tar") as tar:
        for member in tar:
            path = "/" + member.name.removeprefix("./").strip("/")
            listed.append(path if path != "/" else "/.")
            if excluded(path, excludes, member.isdir() or member.issym()):
                continue
            if member.isdir():
                if path != "/":
                    _folder(path)
                    done.folders.append((path, member.mode, member.uid, member.gid))
            else:
                _file(tar, member, path, path + ".dpkg-new" if path in keep else path, keep)
    _write(f"{INFO}/{named}.list", ("\n".join(listed) + "\n").encode(), 0o644)
    for file_name, content in control.items():
        _write(f"{INFO}/{named}.{file_name}", content, modes[file_name])
    return done


def _folder(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)


def _file(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: str, into: str, keep: set[str]
) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        os.makedirs(parent, 0o755, exist_ok=True)
    if os.path.lexists(into):
        os.unlink(into)  # a file that moved between packages: the later one replaces it, as in dpkg
    if member.issym():
        os.symlink(member.linkname, into)
    elif member.islnk():
        target = "/" + member.linkname.removeprefix("./").strip("/")
        os.link(target + ".dpkg-new" if target in keep else target, into)
        return
    elif member.isfile():
        source = tar.extractfile(member)
        assert source is not None
        with open(into, "wb") as out:
            while block := source.read(1 << 20):
                out.write(block)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(into, kind | member.mode, os.makedev(member.devmajor, member.devminor))
    elif member.isfifo():
        os.mkfifo(into)
    else:
        raise ValueError(f"{path} is of a kind that no package should have")
    os.lchown(into, member.uid, member.gid)
    if not member.issym():
        os.chmod(into, member.mode)
    os.utime(into, (member.mtime, member.mtime), follow_symlinks=False)


def _write(path: str, content: bytes, mode: int) -> None:
    with open(path, "wb") as out:
        out.write(content)
    os.chmod(path, mode)


def status(package: Unpacked) -> str:
    """dpkg's status stanza of a package whose files are there and whose scripts have not run."""
    head, _, rest = package.control.rstrip("\n").partition("\n")
    lines = [head, "Status: install ok unpacked", rest]
    if package.conffiles:
        lines.append("Conffiles:\n" + "\n".join(f" {c} newconffile" for c in package.conffiles))
    return "\n".join(lines) + "\n"


def interests(packages: Sequence[Unpacked]) -> dict[str, list[str]]:
    """Trigger name -> packages that want to hear of it; the file triggers are under "File", path first."""
    found: dict[str, list[str]] = {"File": []}
    for package in packages:
        for line in package.triggers.splitlines():
            words = line.split("#")[0].split()
            if len(words) == 2 and words[0].startswith("interest"):
                who = package.name + ("/noawait" if words[0].endswith("-noawait") else "")
                if words[1].startswith("/"):
                    found["File"].append(f"{words[1]} {who}")
                else:
                    found.setdefault(words[1], []).append(who)
    return found


def _confine(tree: str, archive: str) -> None:
    global _archive
    _archive = os.open(archive, os.O_RDONLY | os.O_DIRECTORY)
    os.umask(0)
    # From here on an import would take the tree's own Python for the standard library, and run it.
    sys.path.clear()
    sys.dont_write_bytecode = True
    os.chroot(tree)
    os.chdir("/")


_archive = -1


def _one(job: tuple[str, Sequence[str]]) -> Unpacked:
    name, excludes = job
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=_archive), "rb") as file:
        deb = file.read()
    try:
        return unpack(deb, excludes)
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, lzma.LZMAError) as cause:
        raise RuntimeError(f"{name}: {cause}") from None


def main(tree: str, archive: str, epoch: int, excludes: Sequence[str]) -> None:
    """Unpack every .deb of `archive` into the empty `tree`."""
    for name in MERGED:
        os.makedirs(f"{tree}/usr/{name}")
        os.symlink(f"usr/{name}", f"{tree}/{name}")
    for name in ("info", "triggers", "updates", "parts", "alternatives"):
        os.makedirs(f"{tree}/var/lib/dpkg/{name}")
    # Largest first: the last package to finish is a small one.
    paths = sorted(Path(archive).glob("*.deb"), key=lambda p: -p.stat().st_size)
    jobs = [(p.name, excludes) for p in paths]
    with multiprocessing.get_context("fork").Pool(
        os.cpu_count(), _confine, (tree, archive)
    ) as pool:
        packages = sorted(pool.imap_unordered(_one, jobs), key=lambda u: u.name)
    # A folder that several packages have gets the first one's mode, whoever was faster.
    seen: set[str] = set()
    for package in packages:
        for path, mode, uid, gid in package.folders:
            real = tree + path
            if path not in seen and not os.path.islink(real):
                os.chown(real, uid, gid)
                os.chmod(real, mode)
            seen.add(path)
    base = Path(tree, "var/lib/dpkg")
    (base / "status").write_text("\n".join(status(p) for p in packages))
    for name, lines in interests(packages).items():
        (base / "triggers" / name).write_text("".join(f"{line}\n" for line in lines))
    for name in ("diversions", "lock", "lock-frontend", "triggers/Lock",
                 "triggers/Unincorp"):  # fmt: skip
        (base / name).touch()
    (base / "info" / "format").write_text("1\n")
    for folder, _, _ in os.walk(tree, topdown=False):
        os.utime(folder, (epoch, epoch))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
