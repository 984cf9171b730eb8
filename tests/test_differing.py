"""Two trees are compared as an image would hold them; a difference names its path, what it is, and its layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.differing import Difference, compare, origin
from builder.layers import LayerStore
from builder.trees import Entry

FILE = Entry("/etc/name", "-", 0o644, "0:0", 100, 4, "aa", ())


def test_equal_trees_do_not_differ() -> None:
    assert compare([FILE], [FILE], 50) == []


def test_what_no_image_keeps_is_no_difference() -> None:
    later = replace(FILE, mtime=200, attributes=(("trusted.overlay.origin", "00"),))
    assert compare([FILE], [later], 90) == [], "both are younger than the epoch"
    assert compare([FILE], [later], 150) == [Difference("/etc/name", "time 100, 150")]


def test_everything_that_differs_is_named() -> None:
    other = replace(FILE, mode=0o600, owner="1:1", content="bb", attributes=(("user.a", "00"),))
    new = replace(FILE, path="/etc/new")
    assert compare([FILE], [other, new], 1) == [
        Difference("/etc/name", "mode 0644, 0600, owner 0:0, 1:1, content, attributes"),
        Difference("/etc/new", "only in the second"),
    ]
    assert compare([new], [], 1) == [Difference("/etc/new", "only in the first")]


def test_the_newest_layer_that_has_a_path_made_it(tmp_path: Path) -> None:
    store, layers = LayerStore(tmp_path), ("a" * 64, "b" * 64)
    for layer in layers:
        (store.folder(layer) / "tree/etc").mkdir(parents=True)
    (store.folder(layers[0]) / "tree/etc/old").touch()
    (store.folder(layers[1]) / "tree/etc/link").symlink_to("/nonexistent")
    assert origin("/etc/old", layers, [store]) == layers[0]
    assert origin("/etc/link", layers, [store]) == layers[1]
    assert origin("/etc", layers, [store]) == layers[1]
    assert origin("/none", layers, [store]) == ""
