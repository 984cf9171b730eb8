"""Which layers may go: those over the size limit, least recently used first, or those that nobody needs any more.

A layer stands on its parent, so a parent is used whenever a child is, needed when a child is, and goes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer in the store.

    used    when, in seconds since 1970
    needed  an image of the catalog was made from it
    held    a build that runs uses it
    """

    id: str
    parent: str
    size: int
    used: float
    needed: bool
    held: bool


def over(layers: Sequence[Kept], limit: int) -> list[str]:
    """Ids of the layers to remove so that the rest is at most `limit` bytes, in the order to remove them.

    Layers of no image go first, then those of images (an image stands alone, its layers only spare work); each group
    by its last use. Held layers stay, whatever the limit.
    """
    layers, depth = _passed_on(layers)
    total = sum(layer.size for layer in layers)
    gone = []
    for layer in sorted(layers, key=lambda k: (k.needed, k.used, -depth[k.id], k.id)):
        if total <= limit:
            break
        if not layer.held:
            gone.append(layer.id)
            total -= layer.size
    return gone


def unneeded(layers: Sequence[Kept], before: float) -> list[str]:
    """Ids of the layers of no image that nobody used since `before`, in the order to remove them."""
    layers, depth = _passed_on(layers)
    idle = [k for k in layers if not k.needed and not k.held and k.used < before]
    return [k.id for k in sorted(idle, key=lambda k: (-depth[k.id], k.id))]


def _passed_on(layers: Sequence[Kept]) -> tuple[list[Kept], dict[str, int]]:
    """The layers with what their children pass on to them, and how many layers each stands on."""
    known = {layer.id: layer for layer in layers}
    depth = {}
    for layer in layers:
        below = layer.parent
        depth[layer.id] = 0
        while below in known:
            depth[layer.id] += 1
            below = known[below].parent
    for layer in sorted(layers, key=lambda k: -depth[k.id]):
        child, parent = known[layer.id], known.get(layer.parent)
        if parent is not None:
            known[parent.id] = replace(
                parent, used=max(parent.used, child.used), needed=parent.needed or child.needed,
                held=parent.held or child.held,
            )  # fmt: skip
    return list(known.values()), depth
