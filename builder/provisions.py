"""What a step is given besides its tree: packages, wheels and files from the caches, in folders of its chamber."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import downloads, placing
from builder.chamber import Chamber
from builder.packages.archive import archive
from builder.packages.pip import requirements
from builder.steps import Install, Locked, Pip, Step, Write


@dataclass(frozen=True, slots=True)
class Caches:
    """Folders that outlive builds: fetched packages, apt's own state, logs, other fetched files by their sha256."""

    packages: Path
    apt: Path
    logs: Path
    files: Path

    def make(self) -> None:
        for folder in (self.packages, self.apt, self.logs, self.files):
            folder.mkdir(parents=True, exist_ok=True)


def at_hand(step: Step, chamber: Chamber, caches: Caches) -> list[tuple[Path, str]]:
    """What a step is given besides its tree: folders, made in the chamber's when they are not there, and where it
    finds them.
    """
    match step:
        case Install():
            folder = chamber.work / "packages"
            if not folder.exists():
                offer(step.locked, "locked", chamber, caches)
        case Pip():
            folder = chamber.work / "wheels"
            if not folder.exists():
                _offer_wheels(step, chamber, caches)
        case Write() if step.fetched():
            folder = chamber.work / "files"
            if not folder.exists():
                placing.offer(step.fetched(), caches.files, folder)
        case _:
            return []
    return [(folder, f"/run/{folder.name}")]


def offer(packages: Sequence[Locked], suite: str, chamber: Chamber, caches: Caches) -> Path:
    """A folder with an archive of exactly these packages, gone with the chamber."""
    folder = chamber.work / "packages"
    folder.mkdir()
    archive(packages, suite, caches.packages, folder)
    return folder


def _offer_wheels(step: Pip, chamber: Chamber, caches: Caches) -> None:
    """A folder with exactly the locked wheels and the pip that installs them, gone with the chamber."""
    folder = chamber.work / "wheels"
    folder.mkdir()
    for wheel in step.local:
        (folder / wheel.file).write_bytes(wheel.data)
    for locked in step.fetched():
        downloads.offer(caches.files, locked.sha256, folder / locked.file)
    (folder / "requirements.txt").write_text(requirements(step.locked))
