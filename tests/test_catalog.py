"""An image is in the catalog whole or not at all, and is found by name, version, id and the plan that made it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.errors import InputError, explain
from builder.images.catalog import Catalog
from tests.invented import IMAGE

OLD = replace(IMAGE, id="aa" * 32, version="0.9", plan="a1" * 32, built="2025-01-01T00:00:00+00:00")
BASE = replace(
    IMAGE,
    id="bb" * 32,
    name="base",
    version="12.1",
    plan="b1" * 32,
    built="2025-06-01T00:00:00+00:00",
)


def maker(image, broken=False):
    def make(folder):
        assert list(folder.iterdir()) == [], "it begins with an empty folder"
        (folder / "disk.raw").write_bytes(b"disk")
        if broken:
            raise RuntimeError("out of paper")
        (folder / "manifest.json").write_text(image.to_json())
        return image

    return make


@pytest.fixture
def catalog(tmp_path):
    found = Catalog(tmp_path / "images")
    for image in (IMAGE, BASE, OLD):
        assert found.add(maker(image)) == image
    return found


def test_newest_first(catalog):
    assert catalog.images() == [IMAGE, BASE, OLD]
    assert Catalog(catalog.root).images() == [IMAGE, BASE, OLD], "for every process"
    assert (catalog.folder(OLD) / "disk.raw").read_bytes() == b"disk"


def test_what_fails_leaves_nothing(catalog):
    before = sorted(catalog.root.iterdir())
    with pytest.raises(RuntimeError, match="out of paper"):
        catalog.add(maker(replace(IMAGE, id="cc" * 32), broken=True))
    assert sorted(catalog.root.iterdir()) == before
    assert catalog.find("cccccc") is None


def test_an_image_is_not_seen_before_it_is_whole(catalog):
    image = replace(IMAGE, id="dd" * 32, name="new")

    def make(folder):
        maker(image)(folder)
        assert catalog.find("new") is None
        return image

    catalog.add(make)
    assert catalog.find("new") == image


def test_the_same_image_again_is_as_good(catalog):
    (catalog.folder(IMAGE) / "mark").write_text("")
    before = len(list(catalog.root.iterdir()))
    assert catalog.add(maker(IMAGE)) == IMAGE
    assert (catalog.folder(IMAGE) / "mark").exists(), "who uses it keeps the files that are open"
    assert len(list(catalog.root.iterdir())) == before


def test_the_same_bytes_from_another_plan_are_found_by_it(catalog):
    again = replace(IMAGE, plan="cc" * 32, built="2026-02-02T00:00:00+00:00")
    catalog.add(maker(again))
    assert catalog.by_plan("cc" * 32) == again
    assert [m.id for m in catalog.images()].count(IMAGE.id) == 1


@pytest.mark.parametrize(
    ("why", "name", "found"),
    [
        ("the newest of that name", "worker", IMAGE),
        ("a version", "worker:0.9", OLD),
        ("a version that is not there", "worker:7", None),
        ("the start of an id", "aaaaaa", OLD),
        ("the whole id", "bb" * 32, BASE),
        ("too few digits could be any", "aaaaa", None),
        ("no part of a name", "work", None),
        ("nothing", "", None),
    ],
)
def test_find(why, name, found, catalog):
    assert catalog.find(name) == found, why


def test_by_plan(catalog):
    assert catalog.by_plan("a1" * 32) == OLD
    assert catalog.by_plan("00" * 32) is None


@pytest.mark.parametrize(
    ("name", "where", "said"),
    [
        ("wroker", "", "error: no image 'wroker' in the catalog\n  hint: did you mean 'worker'?"),
        ("zzz", "f.yaml:5: roles.head.image",
         "error: f.yaml:5: roles.head.image: no image 'zzz' in the catalog\n  hint: known: base, worker"),
    ],
)  # fmt: skip
def test_get_says_what_there_is(name, where, said, catalog):
    with pytest.raises(InputError) as caught:
        catalog.get(name, where)
    assert explain(caught.value) == said


def test_an_empty_catalog_says_how_to_begin(tmp_path):
    with pytest.raises(InputError) as caught:
        Catalog(tmp_path / "images").get("base")
    assert explain(caught.value) == (
        "error: no image 'base' in the catalog\n  hint: the catalog is empty: phx build base"
    )


def test_a_version_that_is_not_there_names_those_that_are(catalog):
    with pytest.raises(InputError) as caught:
        catalog.get("worker:7")
    assert "did you mean 'worker'?" not in explain(caught.value) and "0.9" in explain(caught.value)
    assert explain(caught.value).endswith("\n  hint: versions of 'worker' there: 1.0, 0.9")


def test_a_file_that_is_no_manifest_does_not_hide_the_others(catalog):
    (catalog.root / "odd").mkdir()
    for text in (
        b"[]",
        b'{"digests": 7}',
        b"\xff",
        IMAGE.to_json().replace('"1f', '7, "x": "1f').encode(),
    ):
        (catalog.root / "odd" / "manifest.json").write_bytes(text)
        assert catalog.images() == [IMAGE, BASE, OLD]


def test_removed_is_gone_and_twice_is_silent(catalog):
    catalog.remove(OLD)
    catalog.remove(OLD)
    assert catalog.images() == [IMAGE, BASE]
    assert not [p for p in catalog.root.iterdir() if p.name.startswith("tmp-")]


def test_rubbish_is_passed_over(catalog):
    for name, text in (
        ("empty", ""),
        ("half", '{"id": '),
        ("other", "{}"),
        ("tmp-1", IMAGE.to_json()),
    ):
        (catalog.root / name).mkdir()
        (catalog.root / name / "manifest.json").write_text(text)
    (catalog.root / "no-manifest").mkdir()
    assert catalog.images() == [IMAGE, BASE, OLD]
