"""A flat archive (apt's word for one without suites) of exactly the locked packages: all that a step's apt can see."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.errors import WorkFailed
from builder.steps import Locked


def file_name(p: Locked) -> str:
    """As apt names it in its cache: an epoch's colon is escaped."""
    return f"{p.name}_{p.version.replace(':', '%3a')}_{p.architecture}.deb"


def archive(packages: Sequence[Locked], suite: str, cache: Path, into: Path) -> None:
    """Write a flat archive of exactly these packages into the empty folder `into`: links and their index.

    Every file is checked against its lock first, so the index may be trusted. Raises WorkFailed naming a file
    that is missing or has changed.
    """
    index = []
    for p in sorted(packages, key=lambda p: p.name):
        path = cache / file_name(p)
        if not whole(path, p):
            raise WorkFailed(f"{path.name} is missing from the cache or is not what its lock says")
        try:
            (into / path.name).hardlink_to(path)
        except OSError:  # the cache is on another filesystem
            shutil.copyfile(path, into / path.name)
        control = control_of(path).strip("\n")
        index.append(f"{control}\nFilename: ./{path.name}\nSize: {p.size}\nSHA256: {p.sha256}\n")
    text = "\n".join(index)
    (into / "Packages").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (into / "Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\n"
        f"SHA256:\n {digest} {len(text.encode())} Packages\n"
    )


def control_of(deb: Path) -> str:
    """The control file of a .deb (deb(5)). WorkFailed if it is none."""
    from builder.packages.unpack import (
        tar_in,  # brings multiprocessing along, which a build with nothing to do never needs
    )

    try:
        with tar_in(deb.read_bytes(), "control.tar") as tar:
            for wanted in ("./control", "control"):
                if wanted in tar.getnames():
                    file = tar.extractfile(wanted)
                    assert file is not None
                    return file.read().decode()
    except ValueError:
        pass
    raise WorkFailed(f"{deb.name} is not a Debian package")


def whole(path: Path, p: Locked) -> bool:
    """Whether the file is there, with the locked bytes."""
    try:
        with path.open("rb") as file:
            return (
                path.stat().st_size == p.size
                and hashlib.file_digest(file, "sha256").hexdigest() == p.sha256
            )
    except FileNotFoundError:
        return False
