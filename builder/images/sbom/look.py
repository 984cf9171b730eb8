"""Looks through a finished tree for what is installed, in one pass.

Runs as a program inside a chamber, where every file can be read: `python -m builder.images.sbom.look TREE`; the
inventory goes to standard output. Nothing that stands in the tree is run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PathDistribution
from pathlib import Path

from debian.copyright import Copyright, Error
from debian.deb822 import Deb822

from builder.images.sbom.inventory import Distribution, Installed, Inventory

LARGEST = 4 << 20
"""Bytes of a copyright or metadata file; the longest of Debian 12 has 1.5 MB."""


def look(tree: Path) -> Inventory:
    """All Debian and Python packages of the tree, sorted."""
    packages = tuple(sorted(_debian(tree), key=lambda p: (p.name, p.architecture)))
    found = sorted(_python(tree), key=lambda d: (d.name.lower(), d.path))
    release = _text(tree, "etc/os-release") or _text(tree, "usr/lib/os-release")
    suite = re.search(r'^VERSION_CODENAME="?([\w.-]+)', release, re.M)
    return Inventory(suite[1] if suite else "", packages, tuple(found))


def _debian(tree: Path) -> Iterator[Installed]:
    for entry in Deb822.iter_paragraphs(_text(tree, "var/lib/dpkg/status"), use_apt_pkg=False):
        if not entry.get("Status", "").endswith(" installed"):
            continue
        name, version = entry["Package"], entry["Version"]
        source, _, built_from = entry.get("Source", name).partition(" ")
        licences, mentions = read_copyright(_text(tree, f"usr/share/doc/{name}/copyright"))
        yield Installed(
            name, version, entry["Architecture"], (source, built_from.strip("()") or version),
            entry.get("Maintainer", ""), entry.get("Homepage", ""), licences, mentions,
        )  # fmt: skip


def read_copyright(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(licences, mentions) of a copyright file, as `Installed` has them."""
    try:
        file = Copyright(text.splitlines(), strict=False)
        paragraphs = [file.header, *file.all_files_paragraphs()]
        found = {" ".join(p.license.synopsis.split()) for p in paragraphs if p.license}
        return tuple(sorted(found - {""})), ()
    except (Error, ValueError):
        found = set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])", text))
        return (), tuple(sorted(found))


def _python(tree: Path) -> Iterator[Distribution]:
    owners = _owners(tree)
    for top, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(top, name)
            if not name.endswith((".dist-info", ".egg-info")) or path.is_symlink():
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError):
                told = PathDistribution(path).metadata
                where = "/" + str(path.relative_to(tree))
                if told["Name"] and told["Version"]:
                    yield Distribution(
                        told["Name"], told["Version"], where, _licence(told),
                        told["Home-page"] or "", owners.get(where, ""),
                    )  # fmt: skip


def _owners(tree: Path) -> dict[str, str]:
    """Which Debian package brought which metadata of a Python package."""
    found = {}
    for path in sorted((tree / "var/lib/dpkg/info").glob("*.list")):
        for line in _text(tree, str(path.relative_to(tree))).splitlines():
            if line.endswith((".dist-info", ".egg-info")):
                found[line] = path.stem.partition(":")[0]
    return found


def _licence(told: PackageMetadata) -> str:
    """By the newest of the three places where it may stand; no longer than one line."""
    kinds = [
        text.rpartition(" :: ")[2]
        for text in told.get_all("Classifier") or ()
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    ]
    plain = told["License"] or ""
    short = plain if "\n" not in plain and len(plain) < 80 else ""
    return str(told["License-Expression"] or short or ", and ".join(sorted(kinds)))


def _text(tree: Path, path: str) -> str:
    try:
        with (tree / path).open("rb") as file:
            return file.read(LARGEST).decode(errors="replace")
    except OSError:
        return ""


def main(tree: str) -> None:
    logging.disable()  # the parser's remarks on Debian's files help nobody here
    # Links of the tree must lead to the tree; and what was not imported by now must not be, as it would be the tree's.
    os.chroot(tree)
    sys.path.clear()
    sys.stdout.write(look(Path("/")).to_json())


if __name__ == "__main__":
    main(sys.argv[1])
