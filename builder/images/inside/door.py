"""How an image of the catalog is opened: from its layers where these are at hand, else by libguestfs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from builder.images.catalog import Catalog
from builder.images.inside import supermin
from builder.images.inside.guest import Libguestfs
from builder.images.inside.interior import Interior, Readable
from builder.images.inside.layered import Layered
from builder.images.manifest import Manifest
from builder.layers import LayerStore
from builder.plan import Report


class Door:
    """One home's."""

    def __init__(self, home: Path, report: Report) -> None:
        self.home, self.report = home, report
        self.catalog = Catalog(home / "images")

    @contextlib.contextmanager
    def reading(self, image: Manifest) -> Iterator[Readable]:
        """What is inside the image, which stays as it is."""
        store = LayerStore(self.home / "layers")
        with store.using(image.layers):
            if image.layers and all(store.has(layer) for layer in image.layers):
                with store.begin(image.layers) as chamber:
                    yield Layered(chamber)
                return
        disk = self.catalog.folder(image) / "disk.raw"
        self.report(f"{image.name}: libguestfs looks inside")
        with Libguestfs(
            disk, "raw", supermin.machine(self.home, self.catalog, self.report)
        ) as inside:
            inside.enter(image.mounts)
            yield inside

    @contextlib.contextmanager
    def changing(self, disk: Path, form: str = "raw") -> Iterator[Interior]:
        """What is inside a disk of ours alone, to be changed; it is written when this ends."""
        machine = supermin.machine(self.home, self.catalog, self.report)
        with Libguestfs(disk, form, machine, write=True) as inside:
            yield inside
