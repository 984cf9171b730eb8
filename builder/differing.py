"""Two builds of one plan that are not the same: which paths differ, in what, which step made them, and how.

What is compared is what the images were made from: the merged trees, with times after the epoch taken for the epoch,
without the attributes that no image keeps. diffoscope, where it is installed, shows how the first few files differ.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from builder import trees
from builder.errors import TimedOut
from builder.images.tree import KEPT
from builder.layers import LayerStore
from builder.rights import rights
from builder.run import program, run
from builder.trees import Entry

TIMEOUT = 600.0
SHOWN, SECONDS, MEMORY, LINES = 3, 60.0, 1500 << 20, 60
"""Files that diffoscope looks at; seconds and bytes of memory that it may take for one; lines of its report."""


@dataclass(frozen=True, slots=True)
class Difference:
    """what   in words, as in "content" or "mode 0644, 0755"
    layer  the id of the layer that the path is from; "" when it cannot be told
    """

    path: str
    what: str
    layer: str = ""


def listed(store: LayerStore, layers: Sequence[str]) -> list[Entry]:
    """Every path of the merged tree, seen with the rights that made it."""
    with store.begin(layers) as chamber:
        text = chamber.outside(
            f'exec {sys.executable} -I -S {trees.__file__} list "$m"', timeout=TIMEOUT
        ).text
    return [trees.from_json(line) for line in text.splitlines()]


def compare(one: Iterable[Entry], two: Iterable[Entry], epoch: int) -> list[Difference]:
    """Where two trees are not the same for an image, in the order of the paths."""
    a, b = ({entry.path: entry for entry in side} for side in (one, two))
    found = []
    for path in sorted(a.keys() | b.keys()):
        if path not in a or path not in b:
            found.append(Difference(path, f"only in the {'second' if path not in a else 'first'}"))
            continue
        what = ", ".join(_words(a[path], b[path], epoch))
        if what:
            found.append(Difference(path, what))
    return found


def _words(one: Entry, two: Entry, epoch: int) -> list[str]:
    words = []
    for name, a, b in (
        ("kind", one.kind, two.kind),
        ("mode", f"{one.mode:04o}", f"{two.mode:04o}"),
        ("owner", one.owner, two.owner),
        ("time", min(one.mtime, epoch), min(two.mtime, epoch)),
    ):
        if a != b:
            words.append(f"{name} {a}, {b}")
    if one.content != two.content:
        words.append("content")
    kept = [[pair for pair in entry.attributes if pair[0].startswith(KEPT)] for entry in (one, two)]
    return words if kept[0] == kept[1] else [*words, "attributes"]


def origin(path: str, layers: Sequence[str], stores: Iterable[LayerStore]) -> str:
    """The newest layer that has the path; "" when none of them can be looked into."""
    for layer in reversed(layers):
        for store in stores:
            try:
                (store.folder(layer) / "tree" / path.lstrip("/")).lstat()
            except OSError:
                continue
            return layer
    return ""


def shown(found: Sequence[Difference], one: LayerStore, two: LayerStore) -> Mapping[str, str]:
    """diffoscope's words on the first files whose content differs; empty when it is not installed."""
    if shutil.which("diffoscope") is None:
        return {}
    chosen = [d for d in found if "content" in d.what.split(", ") and d.layer][:SHOWN]
    return {d.path: _diffoscope(d, one, two) for d in chosen}


def _diffoscope(difference: Difference, one: LayerStore, two: LayerStore) -> str:
    both = [
        str(s.folder(difference.layer) / "tree" / difference.path.lstrip("/")) for s in (one, two)
    ]
    seen = [program("unshare", "util-linux"), *rights().prefix] if rights().prefix else []
    limit = [program("prlimit", "util-linux"), f"--as={MEMORY}"]
    look = ["diffoscope", "--no-progress", "--exclude-directory-metadata=yes", "--text", "-"]
    try:
        done = run([*seen, *limit, *look, *both], timeout=SECONDS, check=False)
    except TimedOut:
        return f"diffoscope did not end in {SECONDS:.0f} s"
    lines = done.text.splitlines() if done.status in (0, 1) else done.tail.splitlines()[-3:]
    for path, name in zip(both, ("first", "second"), strict=True):
        lines = [line.replace(path, name) for line in lines]
    more = len(lines) - LINES
    return "\n".join([*lines[:LINES], *([f"... {more} more lines"] if more > 0 else [])])


def examine(layers: Sequence[str], epoch: int, one: LayerStore, two: LayerStore) -> str:
    """What a user reads of two builds with the same layers whose images differ."""
    if not all(store.has(layer) for store in (one, two) for layer in layers):
        return "layers of the first build are gone, so its tree cannot be compared"
    found = [
        replace(d, layer=origin(d.path, layers, (one, two)))
        for d in compare(listed(one, layers), listed(two, layers), epoch)
    ]
    if not found:
        return "both trees are the same: what differs is how the image was written"
    titles = {layer: f"{n} {two.info(layer).title}" for n, layer in enumerate(layers, 1)}
    lines = [f"{len(found)} paths differ:"]
    for d in found[:LINES]:
        lines.append(f"  {d.path}: {d.what} (step {titles.get(d.layer, 'unknown')})")
    if len(found) > LINES:
        lines.append(f"  ... and {len(found) - LINES} more")
    for path, text in shown(found, one, two).items():
        lines += ["", f"{path}:", text]
    return "\n".join(lines)
