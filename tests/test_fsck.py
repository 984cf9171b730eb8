"""Each way in which a home can be broken is told with its place, and moved aside: the next build makes it anew."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace

import pytest

from builder import fsck
from builder.claims import claimed
from builder.images import manifest
from builder.images.catalog import Catalog
from builder.layers import LayerInfo, LayerStore
from builder.packages import lock
from builder.packages.archive import file_name
from builder.plan import Facts
from tests.invented import IMAGE, deb, locked

pytestmark = pytest.mark.process  # an ordinary user's layers are measured by a program

ROOT = LayerInfo("aa" * 32, "", "bootstrap", "the first", 1.0)
CHILD = LayerInfo("bb" * 32, ROOT.id, "write", "the second", 1.0)


@pytest.fixture
def home(tmp_path):
    """Two layers, an image, a lock and its package, all whole."""
    store = LayerStore(tmp_path / "layers")
    for info in (ROOT, CHILD):
        with store.begin([]) as chamber:
            (chamber.tree / "etc").mkdir()
            (chamber.tree / "etc" / "name").write_text(info.title)
            store.commit(chamber, info)
    files = {name: name.encode() for name in ("disk.raw", "vmlinuz", "initrd")}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    papers = {name: name.encode() for name, _ in IMAGE.papers}
    image = replace(
        IMAGE, digests=tuple(sorted(digests.items())), id=manifest.identity(digests),
        papers=tuple((name, hashlib.sha256(data).hexdigest()) for name, data in papers.items()),
    )  # fmt: skip

    def make(folder):
        for name, data in (files | papers).items():
            (folder / name).write_bytes(data)
        (folder / "manifest.json").write_text(image.to_json())
        return image

    catalog = Catalog(tmp_path / "images")
    catalog.add(make)
    (tmp_path / "image").symlink_to(catalog.folder(image))
    package = locked("hello")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / file_name(package)).write_bytes(deb("hello"))
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "1.lock").write_text(lock.to_json(Facts(1, ((package,),)), "key"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / hashlib.sha256(b"fetched").hexdigest()).write_bytes(b"fetched")
    (tmp_path / "files" / ("ab" * 32 + ".part")).write_bytes(b"not all yet")
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "worker.json").write_text("[]")
    return tmp_path


def look(home, deep=True):
    return fsck.examine(home, deep, lambda _: None)


def test_a_whole_home(home, tmp_path):
    assert look(home) == []
    assert fsck.examine(tmp_path / "nowhere", True, lambda _: None) == []


def layer(home, info):
    return home / "layers" / info.id[:20]


def no_json(home):
    (layer(home, CHILD) / "layer.json").unlink()


def odd_json(home):
    (layer(home, CHILD) / "layer.json").write_text('{"id": 7}')


def other_id(home):
    (layer(home, CHILD) / "layer.json").write_text(replace(CHILD, id="cc" * 32).to_json())


def no_tree(home):
    (layer(home, CHILD) / "tree").rename(home / "elsewhere")


def no_parent(home):
    layer(home, ROOT).rename(home / "elsewhere")


def a_file_of_a_layer(home):
    (layer(home, CHILD) / "tree/etc/name").write_text("the secomd")


def a_mode_in_a_layer(home):
    (layer(home, CHILD) / "tree/etc").chmod(0o700)


def no_manifest(home):
    (home / "image/manifest.json").write_text("{}")


def other_manifest(home):
    text = (home / "image/manifest.json").read_text()
    moved = home / "images" / ("0" * 16)
    (home / "image").resolve().rename(moved)
    (moved / "manifest.json").write_text(text)


def other_digests(home):
    path = home / "image/manifest.json"
    data = json.loads(path.read_text())
    data["digests"][0][1] = "00" * 32
    path.write_text(json.dumps(data))


def no_kernel(home):
    (home / "image/vmlinuz").unlink()


def a_byte_of_the_disk(home):
    (home / "image/disk.raw").write_bytes(b"disk.rav")


def another_inventory(home):
    (home / "image/inventory.json").write_text("{}")


def no_lock(home):
    (home / "locks/1.lock").write_text("{")


def a_package(home):
    path = next((home / "packages").iterdir())
    path.write_bytes(path.read_bytes() + b"!")


def a_fetched_file(home):
    (home / "files" / hashlib.sha256(b"fetched").hexdigest()).write_bytes(b"fetcher")


def no_memory(home):
    (home / "told/worker.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "deep", "place", "what"),
    [
        (no_json, False, "layers/" + "bb" * 10, "no layer: its layer.json cannot be read"),
        (odd_json, False, "layers/" + "bb" * 10, "no layer: its layer.json cannot be read"),
        (other_id, False, "layers/" + "bb" * 10, "layer.json is of another layer, " + "cc" * 10),
        (no_tree, False, "layers/" + "bb" * 10, "the layer has no tree"),
        (no_parent, False, "layers/" + "bb" * 10, f"the layer below it, {'aa' * 6}, is gone"),
        (a_file_of_a_layer, True, "layers/" + "bb" * 10, "'the second' is not what was committed"),
        (a_mode_in_a_layer, True, "layers/" + "bb" * 10, "'the second' is not what was committed"),
        (no_manifest, False, "images/*", "no image: its manifest cannot be read"),
        (other_manifest, False, "images/" + "0" * 16, "the manifest is of another image, *"),
        (other_digests, False, "images/*", "the id is not that of the digests"),
        (no_kernel, False, "images/*", "worker: vmlinuz is missing"),
        (a_byte_of_the_disk, True, "images/*", "worker: disk.raw is not what was built"),
        (another_inventory, True, "images/*", "worker: inventory.json is not what was built"),
        (no_lock, False, "locks/1.lock", "is not a lock"),
        (a_package, True, "packages/hello_1.0_all.deb", "is not the package that its lock names"),
        (a_fetched_file, True, "files/*", "is not the file that its name says"),
        (no_memory, False, "told/worker.json", "what the last build did cannot be read"),
    ],
)  # fmt: skip
def test_harm_is_told_and_moved_aside(home, harm, deep, place, what):
    harm(home)
    if deep:
        assert look(home, deep=False) == [], "only reading every byte shows it"
    [found] = look(home, deep)
    assert found.wrong and found.fixable and found.remedy == fsck.REMEDY
    assert found.place.relative_to(home).match(place)
    assert found.what.startswith(what.rstrip("*"))
    moved = fsck.repair(home, [found])[found.place]
    assert str(moved).startswith(f"{home}/broken/") and not found.place.exists()
    assert look(home, deep) == []


def test_the_same_harm_twice_keeps_both(home):
    for _ in range(2):
        (home / "locks/1.lock").write_text("{")
        fsck.repair(home, look(home))
    assert sorted(p.name for p in (home / "broken").iterdir()) == [
        "locks-1.lock.1", "locks-1.lock.2",
    ]  # fmt: skip


def test_an_image_in_use_is_told_and_left(home):
    no_kernel(home)
    (home / "image/held").mkdir()
    (home / "image/held/cluster demo").touch()
    [found] = look(home)
    assert found.remedy == "used by cluster demo: take it down first"
    assert fsck.repair(home, [found]) == {} and found.place.is_dir()


def test_what_dead_builds_left_is_no_harm_and_what_living_ones_have_is_nothing(home):
    (home / "layers/tmp/work-1").mkdir()
    (home / "layers/tmp/gone-1").mkdir()
    (home / "images/tmp-1").mkdir()
    new = home / "locks/2.lock.abc.new"
    new.touch()
    os.utime(new, (time.time() - 100, time.time() - 100))
    (home / "told/x.json.abc.new").touch()
    (home / "check").mkdir()
    with claimed(home / "layers/tmp", "work", ["x"]), claimed(home / "images", "tmp"):
        found = look(home)
        names = {"gone-1", "work-1", "tmp-1", "2.lock.abc.new", "check"}
        assert {f.place.name for f in found} == names
        assert not any(f.wrong for f in found)
        fsck.repair(home, found)
        assert [f.place.name for f in look(home)] == ["check"]


def test_a_layer_of_an_earlier_time_is_sized_without_being_used(home):
    path = layer(home, CHILD) / "layer.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("size", "digest")}
    size = LayerStore(home / "layers").info(CHILD.id).size
    path.write_text(json.dumps(old))
    os.utime(path, (1000, 1000))
    [found] = look(home)
    assert not found.wrong and "cannot be compared" in found.what
    store = LayerStore(home / "layers")
    assert store.evict((), 1 << 40) == []
    assert store.info(CHILD.id).size == size > 0
    assert path.stat().st_mtime == 1000
    assert [i.id for i in store.evict((), 0)] == [CHILD.id, ROOT.id]


def test_sizes_count_a_hard_link_once_and_holes_not(tmp_path):
    store = LayerStore(tmp_path / "layers")
    with store.begin([]) as chamber:
        (chamber.tree / "one").write_bytes(bytes(range(256)) * 4096)
        (chamber.tree / "two").hardlink_to(chamber.tree / "one")
        with (chamber.tree / "sparse").open("wb") as file:
            file.truncate(128 << 20)
        store.commit(chamber, ROOT)
    assert 1 << 20 <= store.info(ROOT.id).size < 3 << 19


def test_a_layer_that_a_build_uses_is_not_evicted(tmp_path, home):
    store = LayerStore(home / "layers")
    with store.using([ROOT.id, "cc" * 32]):
        assert [i.id for i in store.evict((), 0)] == [CHILD.id]
        assert store.prune((), -1) == []
    assert [i.id for i in store.prune((), -1)] == [ROOT.id]
