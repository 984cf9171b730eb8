"""Whether all that is kept is whole: layers, images, locks, fetched packages, and what dead builds left behind.

Nothing that a running build has in hand counts as wrong. Repairing means moving aside, to broken/ in the same home:
whatever is not there is made again by the build that needs it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.claims import claims
from builder.errors import InputError
from builder.images import manifest
from builder.images.catalog import Catalog
from builder.images.disk import FILES, sha256_of
from builder.layers import SHORT, LayerInfo, LayerStore, layer_info, measured
from builder.packages import lock
from builder.packages.archive import file_name
from builder.plan import Report
from builder.rights import remove

REMEDY = "phx image fsck --repair, then build again"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    place   the file or folder, below the home
    wrong   False for leftovers, which harm nobody
    fixable whether `repair` may take it away
    """

    place: Path
    what: str
    remedy: str
    wrong: bool = True
    fixable: bool = True


def examine(home: Path, deep: bool, report: Report) -> list[Finding]:
    """Everything that is wrong in `home`, then what is left over. Changes nothing.

    deep  every byte of layers, images and fetched packages is read and compared with what was noted
    """
    if not home.is_dir():
        return []
    found = [
        *_layers(home / "layers", deep, report),
        *_images(home / "images", deep, report),
        *_locks(home, deep, report),
        *_files(home / "files", deep, report),
        *_told(home / "told"),
        *_left_over(home),
    ]
    return sorted(found, key=lambda f: not f.wrong)


def repair(home: Path, findings: list[Finding]) -> dict[Path, Path | str]:
    """Move aside what is wrong and remove what is left over; where each went."""
    gone: dict[Path, Path | str] = {}
    for finding in findings:
        if not finding.fixable or not finding.place.exists():
            continue
        if not finding.wrong:
            if finding.place.is_dir():
                remove(finding.place)
            else:
                finding.place.unlink(missing_ok=True)
            gone[finding.place] = "nowhere: removed"
            continue
        aside = home / "broken"
        aside.mkdir(exist_ok=True)
        name, number = "-".join(finding.place.relative_to(home).parts), 1
        while (aside / f"{name}.{number}").exists():
            number += 1
        gone[finding.place] = finding.place.rename(aside / f"{name}.{number}")
    return gone


def _layers(root: Path, deep: bool, report: Report) -> Iterator[Finding]:
    if not root.is_dir():
        return
    known: dict[str, LayerInfo] = {}
    for folder in sorted(p for p in root.iterdir() if p.name != "tmp"):
        try:
            info = layer_info((folder / "layer.json").read_text())
        except (OSError, ValueError):
            if not folder.exists():
                continue  # evicted just now
            yield Finding(folder, "no layer: its layer.json cannot be read", REMEDY)
            continue
        if info.id[:SHORT] != folder.name:
            yield Finding(folder, f"layer.json is of another layer, {info.id[:SHORT]}", REMEDY)
        elif not (folder / "tree").is_dir():
            yield Finding(folder, "the layer has no tree", REMEDY)
        else:
            known[info.id] = info
    for info in known.values():
        if info.parent and info.parent not in known:
            folder = root / info.id[:SHORT]
            yield Finding(folder, f"the layer below it, {info.parent[:12]}, is gone", REMEDY)
    if deep:
        with LayerStore(root).using(list(known)):
            yield from _trees(root, known.values(), report)


def _trees(root: Path, layers: Iterable[LayerInfo], report: Report) -> Iterator[Finding]:
    for info in layers:
        folder = root / info.id[:SHORT]
        if not (folder / "tree").is_dir():
            continue  # it was evicted before we said that we use it
        report(f"layer {info.id[:12]} {info.title}")
        if not info.digest:
            yield Finding(folder, "made before digests were noted: cannot be compared",
                          "phx image prune removes it when no image needs it", False, False)  # fmt: skip
        elif measured(folder / "tree")[1] != info.digest:
            yield Finding(folder, f"'{info.title}' is not what was committed", REMEDY)


def _images(root: Path, deep: bool, report: Report) -> Iterator[Finding]:
    if not root.is_dir():
        return
    catalog = Catalog(root)
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("tmp-")):
        try:
            image = manifest.from_json((folder / "manifest.json").read_text())
        except (OSError, ValueError):
            yield Finding(folder, "no image: its manifest cannot be read", REMEDY)
            continue
        users = ", ".join(catalog.holders(image))
        remedy = f"used by {users}: take it down first" if users else REMEDY
        digests = dict(image.digests)
        missing = [
            name
            for name in (*FILES, *digests, *dict(image.papers))
            if not (folder / name).is_file()
        ]
        if catalog.folder(image) != folder:
            what = f"the manifest is of another image, {image.short}"
        elif manifest.identity(digests) != image.id:
            what = "the id is not that of the digests"
        elif missing:
            what = f"{image.name}: {', '.join(dict.fromkeys(missing))} is missing"
        elif deep and (wrong := _differing(folder, image, report)):
            what = f"{image.name}: {', '.join(wrong)} is not what was built"
        else:
            continue
        yield Finding(folder, what, remedy, fixable=not users)


def _differing(folder: Path, image: manifest.Manifest, report: Report) -> list[str]:
    report(f"image {image.short} {image.name}")
    told = (*image.digests, *image.papers)
    return [name for name, digest in told if sha256_of(folder / name) != digest]


def _locks(home: Path, deep: bool, report: Report) -> Iterator[Finding]:
    """The answers that builds keep, and with `deep` the packages that they name."""
    digests: dict[str, str] = {}
    for path in sorted((home / "locks").glob("*.lock")):
        try:
            facts, _ = lock.from_json(path.read_text(), str(path))
        except (OSError, ValueError, InputError):
            yield Finding(path, "is not a lock", REMEDY)
            continue
        digests |= {file_name(p): p.sha256 for part in facts.packages for p in part}
    if not deep:
        return
    report(f"{len(digests)} packages")
    for name, digest in sorted(digests.items()):
        path = home / "packages" / name
        if path.is_file():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield Finding(path, "is not the package that its lock names", REMEDY)


def _files(folder: Path, deep: bool, report: Report) -> Iterator[Finding]:
    """Fetched files, whose names are their digests."""
    found = sorted(p for p in folder.glob("*") if not p.suffix) if deep else []
    if found:
        report(f"{len(found)} fetched files")
    for path in found:
        if sha256_of(path) != path.name:
            yield Finding(path, "is not the file that its name says", REMEDY)


def _told(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text())
        except (OSError, ValueError):
            yield Finding(path, "what the last build did cannot be read", REMEDY)


def _left_over(home: Path) -> Iterator[Finding]:
    dead: list[Path] = []
    tmp = home / "layers" / "tmp"
    if tmp.is_dir():
        with claims(tmp, "use", "work") as now:
            dead += now.dead
        dead += tmp.glob("gone-*")
    if (home / "images").is_dir():
        dead += Catalog(home / "images").left_over()
    for path in sorted(dead):
        yield Finding(path, "left by a build that died", "the next build removes it", wrong=False)
    for path in sorted([*(home / "locks").glob("*.new"), *(home / "told").glob("*.new")]):
        if time.time() - path.stat().st_mtime < 60:
            continue  # maybe written just now
        yield Finding(path, "left by a build that died", "phx image fsck --repair", wrong=False)
    if (home / "check").is_dir():
        yield Finding(home / "check", "the second build of a phx build --check that differed",
                      "remove it when you have looked at it", wrong=False, fixable=False)  # fmt: skip
