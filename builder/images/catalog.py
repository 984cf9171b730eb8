"""The images at hand: found by name, by id or by the plan that made them, added whole or not at all.

<root>/<first 16 digits of the id>/   disk.raw vmlinuz initrd manifest.json
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from pathlib import Path

from builder.claims import claimed, claims
from builder.errors import InputError, Problem, close
from builder.images import manifest
from builder.images.manifest import Manifest
from builder.rights import remove


class Catalog:
    """Images in one folder. Every read looks at the disk: another process may have added one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, image: Manifest) -> Path:
        return self.root / image.id[:16]

    def images(self) -> list[Manifest]:
        """All images, newest first."""
        found = []
        for path in self.root.glob("*/manifest.json"):
            if path.parent.name.startswith("tmp-"):
                continue
            with contextlib.suppress(ValueError, OSError):
                found.append(manifest.from_json(path.read_text()))
        return sorted(found, key=lambda m: (m.built, m.id), reverse=True)

    def by_plan(self, plan: str) -> Manifest | None:
        return next((m for m in self.images() if m.plan == plan), None)

    def find(self, name: str) -> Manifest | None:
        """The newest image called `name` or `name:version`, or the one whose id starts with `name`."""
        plain, _, version = name.partition(":")
        for m in self.images():
            if m.name == plain and version in ("", m.version):
                return m
        if len(name) >= 6:
            return next((m for m in self.images() if m.id.startswith(name)), None)
        return None

    def get(self, name: str, where: str = "") -> Manifest:
        """As `find`, but InputError (at `where`) with what there is."""
        found = self.find(name)
        if found is None:
            images, plain = self.images(), name.partition(":")[0]
            versions = dict.fromkeys(m.version for m in images if m.name == plain)
            if versions:
                hint = f"versions of '{plain}' there: {', '.join(versions)}"
            elif images:
                hint = close(name, {m.name for m in images})
            else:
                hint = f"the catalog is empty: phx build {plain}"
            raise InputError(Problem(where, f"no image '{name}' in the catalog", hint))
        return found

    def add(self, make: Callable[[Path], Manifest]) -> Manifest:
        """Let `make` fill an empty folder; the image is in the catalog when this returns, or nothing is."""
        for left in self.left_over():
            remove(left)
        with claimed(self.root, "tmp") as aside:
            made = make(aside)
            try:
                aside.rename(self.folder(made))
            except OSError:
                # The same bytes are here already, maybe from another plan: from now on this one made them.
                (aside / "manifest.json").replace(self.folder(made) / "manifest.json")
            return made

    def left_over(self) -> tuple[Path, ...]:
        """What builds that died, or removals that did not end, left behind."""
        with claims(self.root, "tmp") as now:
            return now.dead

    def hold(self, image: Manifest, who: str) -> None:
        """Note that `who` (as in "cluster demo") uses the image: it is not removed while anybody does."""
        (self.folder(image) / "held").mkdir(exist_ok=True)
        (self.folder(image) / "held" / who).touch()

    def holders(self, image: Manifest) -> list[str]:
        """Who uses the image."""
        return sorted(p.name for p in (self.folder(image) / "held").glob("*"))

    def release(self, who: str) -> None:
        """Forget every hold of `who`."""
        for path in self.root.glob("*/held/*"):
            if path.name == who:
                path.unlink(missing_ok=True)

    def remove(self, image: Manifest) -> None:
        """Take the image out. Silent when it is gone already; InputError while somebody holds it."""
        holders = self.holders(image)
        if holders:
            what = f"image {image.short} is used by {', '.join(holders)}"
            raise InputError(
                Problem("", what, f"phx down {holders[0].removeprefix('cluster ')} first")
            )
        gone = self.root / f"tmp-{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(FileNotFoundError):
            self.folder(image).rename(gone)
            remove(gone)
