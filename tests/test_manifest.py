"""A manifest that was written reads back equal; what is none is refused; the identity is of the bytes alone."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.images import manifest
from builder.images.manifest import Manifest, Origin, PackageFact, WheelFact
from tests.invented import IMAGE

texts = st.text(max_size=12)
NEWER = (
    "virtualization",
    "capabilities",
    "max_age",
    "context",
    "contextualization",
    "agent",
    "formats",
    "wheels",
    "papers",
    "origin",
    "mounts",
    "network",
    "hypervisor",
    "requires",
)
"""What manifests of earlier versions do not have."""
manifests = st.builds(
    Manifest, id=texts, name=texts, version=texts, summary=texts,
    size=st.integers(0, 1 << 50), stored=st.integers(0, 1 << 50),
    kernel=texts, cmdline=texts, digests=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    packages=st.lists(st.builds(PackageFact, texts, texts, texts, texts), max_size=3).map(tuple), plan=texts,
    recipe_digest=texts, layers=st.lists(texts, max_size=3).map(tuple), epoch=st.integers(0, 2**40), built=texts,
    parameters=st.lists(st.tuples(texts, st.booleans() | st.integers() | texts), max_size=3).map(tuple),
    capabilities=st.lists(texts, max_size=3).map(tuple), formats=st.lists(texts).map(tuple),
    max_age=st.integers(0, 2**40),
    papers=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    wheels=st.lists(st.builds(WheelFact, texts, texts, texts), max_size=3).map(tuple),
    contextualization=st.sampled_from(("agent", "cloud-init", "none")), network=texts,
    origin=st.none() | st.builds(Origin, st.sampled_from(("import", "customize")), texts, texts, texts,
                                 st.lists(texts, max_size=2).map(tuple)),
    mounts=st.lists(st.tuples(texts, texts), max_size=2).map(tuple), hypervisor=st.none() | texts,
    requires=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
)  # fmt: skip


@given(manifests)
def test_reads_back(found):
    assert manifest.from_json(found.to_json()) == found


def test_golden(golden):
    golden("manifest.json", IMAGE.to_json())


@pytest.mark.parametrize("name", [f.name for f in fields(Manifest) if f.name not in NEWER])
def test_without_any_one_key_it_is_no_manifest(name):
    told = json.loads(IMAGE.to_json())
    del told[name]
    with pytest.raises(ValueError):
        manifest.from_json(json.dumps(told))


def test_what_was_written_before_there_were_all_keys_is_read():
    told = json.loads(IMAGE.to_json())
    for name in NEWER:
        del told[name]
    assert manifest.from_json(json.dumps(told)) == replace(
        IMAGE, capabilities=(), max_age=0, papers=()
    )


def test_an_image_is_aged_after_its_recipes_time():
    image = replace(IMAGE, epoch=1000, max_age=60)
    assert (image.age(990.0), image.age(1060.0)) == (0.0, 60.0)
    assert not image.aged(990.0) and not image.aged(1060.0) and image.aged(1060.5)
    assert not replace(image, max_age=0).aged(1e12), "without a limit nothing ages"


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("not JSON", "{"),
        ("empty", ""),
        ("another key", json.dumps({**json.loads(IMAGE.to_json()), "x": 1})),
    ],
)
def test_what_is_none_is_refused(why, text):
    with pytest.raises(ValueError):
        manifest.from_json(text)


def changed(**more):
    return json.dumps({**json.loads(IMAGE.to_json()), **more})


def with_packages(packages):
    return changed(packages=packages)


@pytest.mark.parametrize(
    "text",
    [
        "[]", "null", "7", "[" * 100_000, with_packages([1]), with_packages([{"name": "a"}]), with_packages(None),
        with_packages([{"name": "a", "version": "1", "architecture": "all", "source": None}]),
        changed(capabilities=[1]), changed(max_age=None),
        changed(id=7), changed(name=None), changed(size="1"), changed(stored=True), changed(layers=7),
        changed(layers=[1]),
        changed(context=[]), changed(context="x"), changed(digests=["abc"]),
        changed(digests=[["disk.raw", 7]]), changed(parameters=[[1, 2]]),
    ],
)  # fmt: skip
def test_json_of_another_shape_is_refused_too(text):
    with pytest.raises(ValueError):
        manifest.from_json(text)


def test_the_identity_is_of_all_files_whatever_their_order():
    digests = {"disk.raw": "a", "initrd": "b", "vmlinuz": "c"}
    one = manifest.identity(digests)
    assert one == manifest.identity(dict(reversed(digests.items()))) and len(one) == 64
    for name in digests:
        assert manifest.identity({**digests, name: "x"}) != one
    assert manifest.identity({"disk.raw": "b", "initrd": "a", "vmlinuz": "c"}) != one


def test_packages_as_dpkg_tells_them_in_the_order_of_their_names():
    text = "zlib1g\t1:1.2\tamd64\tzlib\nadduser\t3.1\tall\tadduser\n\n"
    text += "libc6\t2.36\ti386\tglibc\nlibc6\t2.36\tamd64\tglibc\n"
    found = manifest.parse_packages(text)
    assert [(p.name, p.architecture) for p in found] == [
        ("adduser", "all"), ("libc6", "amd64"), ("libc6", "i386"), ("zlib1g", "amd64"),
    ]  # fmt: skip
    assert found[3] == PackageFact("zlib1g", "1:1.2", "amd64", "zlib")
    assert manifest.parse_packages("") == ()


def test_short():
    assert replace(IMAGE, id="0123456789abcdef" * 4).short == "0123456789ab"


@pytest.mark.parametrize(
    ("agent", "packages", "is_"),
    [(True, ["cloud-init"], "agent"), (False, ["cloud-init"], "cloud-init"),
     (False, ["cloud-initramfs-growroot"], "none"), (False, [], "none")],
)  # fmt: skip
def test_who_contextualizes_is_read_from_what_is_there(agent, packages, is_):
    found = [PackageFact(name, "1", "all", name) for name in packages]
    assert manifest.contextualization(agent, found) == is_


def test_a_word_that_contextualizes_nothing_is_refused():
    told = json.loads(IMAGE.to_json()) | {"contextualization": "ignition"}
    with pytest.raises(ValueError, match="contextualized by 'ignition'"):
        manifest.from_json(json.dumps(told))
