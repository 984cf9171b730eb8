"""The layer store: what each step changed, kept by the step's id, and chambers over them.

    <root>/<id>/tree      the step's difference to its parent (overlayfs upper folder)
    <root>/<id>/layer.json  parent, kind, title, seconds, size, digest; written before the folder gets its name
    <root>/tmp/...        work in progress; anything here that no running build claims is rubbish

A layer appears by one rename, so it is whole or absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder import eviction, trees
from builder.chamber import Chamber
from builder.claims import alone, claimed, claims
from builder.errors import WorkFailed
from builder.rights import demand_own, remove, rights
from builder.run import program, run

SHORT = 20
"""Hex digits of a layer's id in its folder's name: mount(2) takes one page of options, 170 such layers."""

MEASURE_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is remembered of a layer.

    seconds  what it cost to make
    size     bytes on disk, a hard link once; -1 in layers of an earlier time
    digest   over every path of its tree and all that is known of it (builder/trees.py); may be empty
    """

    id: str
    parent: str
    kind: str
    title: str
    seconds: float
    size: int = -1
    digest: str = ""

    def to_json(self) -> str:
        return (
            json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True)
            + "\n"
        )


def layer_info(text: str) -> LayerInfo:
    """Read what `to_json` wrote. ValueError if it is something else."""
    try:
        found = LayerInfo(**json.loads(text))
    except TypeError as cause:
        raise ValueError(f"not a layer's description: {cause}") from None
    texts = (found.id, found.parent, found.kind, found.title, found.digest)
    if not all(isinstance(text, str) for text in texts) or type(found.size) is not int:
        raise ValueError("not a layer's description: something in it is of another kind")
    return found


class LayerStore:
    """Layers in one folder, shared by every build on this machine."""

    def __init__(self, root: Path) -> None:
        self.root, self.tmp = root, root / "tmp"
        self.tmp.mkdir(parents=True, exist_ok=True)
        demand_own(root)

    def folder(self, layer: str) -> Path:
        return self.root / layer[:SHORT]

    def has(self, layer: str) -> bool:
        return (self.folder(layer) / "layer.json").is_file()

    def info(self, layer: str) -> LayerInfo:
        return layer_info((self.folder(layer) / "layer.json").read_text())

    def all(self) -> list[LayerInfo]:
        """Every layer that can be read."""
        found = []
        for path in sorted(self.root.glob("*/layer.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(layer_info(path.read_text()))
        return found

    def making(
        self, what: str, waiting: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the right to make this layer or image; `waiting` is told when another build has it."""
        return alone(self.tmp / f"{what[:SHORT]}.lock", waiting)

    @contextlib.contextmanager
    def using(self, layers: Sequence[str]) -> Iterator[None]:
        """Whichever of these layers are there stay there meanwhile."""
        with claimed(self.tmp, "use", layers):
            yield

    @contextlib.contextmanager
    def begin(self, below: Sequence[str]) -> Iterator[Chamber]:
        """A chamber over the layers `below` (oldest first). What is not committed is removed at the end."""
        self.sweep()
        with claimed(self.tmp, "work", below) as work:
            for name in ("tree", "work", "merged", "none"):
                (work / name).mkdir()
            yield Chamber(self.root, work, tuple(layer[:SHORT] for layer in below))

    def commit(self, chamber: Chamber, info: LayerInfo) -> None:
        """Keep what the chamber's step changed as layer `info.id`, with its size and digest."""
        target = self.folder(info.id)
        made = chamber.work / "made"
        try:
            size, digest = measured(chamber.tree)
            made.mkdir()
            chamber.tree.rename(made / "tree")
            whole = replace(info, size=size, digest=digest)
            (made / "layer.json").write_text(whole.to_json())
            made.rename(target)
        except OSError as cause:
            if target.exists():
                return  # another build was faster; its bytes are as good
            raise WorkFailed(f"cannot keep layer {info.id[:12]}") from cause

    def use(self, layer: str) -> None:
        """Note that the layer was used now."""
        with contextlib.suppress(OSError):
            os.utime(self.folder(layer) / "layer.json")

    def prune(self, needed: Collection[str], older: float) -> list[LayerInfo]:
        """Remove layers that are not `needed` and were not used for `older` seconds."""
        before = time.time() - older
        return self._remove(needed, lambda layers: eviction.unneeded(layers, before))

    def evict(self, needed: Collection[str], limit: int) -> list[LayerInfo]:
        """Remove the least recently used layers over `limit` bytes; those that images `needed` last."""
        return self._remove(needed, lambda layers: eviction.over(layers, limit))

    def _remove(
        self, needed: Collection[str], choose: Callable[[Sequence[eviction.Kept]], list[str]]
    ) -> list[LayerInfo]:
        self.sweep()
        known = {info.id: self._sized(info) for info in self.all()}
        gone = []
        # Nobody begins to use a layer meanwhile; what goes is moved aside first, as that takes no time.
        with claims(self.tmp, "use", "work") as now:
            kept = [
                eviction.Kept(i.id, i.parent, i.size, self._used(i.id), i.id in needed, i.id in now.held)
                for i in known.values()
            ]  # fmt: skip
            for layer in choose(kept):
                with contextlib.suppress(OSError):
                    self.folder(layer).rename(self.tmp / f"gone-{uuid.uuid4().hex[:12]}")
                    gone.append(known[layer])
        self.sweep()
        return gone

    def _used(self, layer: str) -> float:
        try:
            return (self.folder(layer) / "layer.json").stat().st_mtime
        except OSError:
            return 0.0

    def _sized(self, info: LayerInfo) -> LayerInfo:
        """With its size, which is noted for layers of an earlier time; that is no use of the layer."""
        if info.size >= 0:
            return info
        path = self.folder(info.id) / "layer.json"
        with contextlib.suppress(OSError):
            used = path.stat().st_mtime
            info = replace(info, size=measured(path.parent / "tree")[0])
            aside = self.tmp / f"gone-{uuid.uuid4().hex[:12]}"
            aside.write_text(info.to_json())
            os.utime(aside, (used, used))
            aside.replace(path)
        return info

    def sweep(self) -> None:
        """Remove what builds that died left behind, and what was moved aside."""
        with claims(self.tmp, "use", "work") as now:
            dead = now.dead
        for path in (*dead, *self.tmp.glob("gone-*")):
            remove(path)


def measured(tree: Path) -> tuple[int, str]:
    """(bytes on disk, digest) of a layer's tree, seen with the rights that made it."""
    prefix = rights().prefix
    if not prefix:
        return trees.measure(str(tree))
    argv = [program("unshare", "util-linux"), *prefix, sys.executable, "-I", "-S", trees.__file__]
    size, digest = json.loads(run([*argv, "measure", str(tree)], timeout=MEASURE_TIMEOUT).text)
    return size, digest


def holding(tree: Path, words: Sequence[bytes]) -> list[str]:
    """The paths of a layer's tree in which one of the words is."""
    prefix = rights().prefix
    if not prefix:
        return trees.holding(str(tree), words)
    argv = [program("unshare", "util-linux"), *prefix, sys.executable, "-I", "-S", trees.__file__]
    told = json.dumps([word.hex() for word in words]).encode()
    done = run([*argv, "holding", str(tree)], timeout=MEASURE_TIMEOUT, stdin=told)
    return json.loads(done.text)  # type: ignore[no-any-return]
