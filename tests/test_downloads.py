"""Files from file:// URLs: kept under their sha256, asked for once, refused when they are others. HTTP: tests/vm."""

from __future__ import annotations

import hashlib

import pytest

from builder import downloads
from builder.errors import WorkFailed, explain

DATA = b"a file of another folder\n"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def there(tmp_path):
    (tmp_path / "there").write_bytes(DATA)
    return (tmp_path / "there").as_uri()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "files"


def fetch(url, cache, sha256=SHA256):
    said = []
    downloads.fetch(url, sha256, cache, "recipe.yaml:7: files[0].url", said.append)
    return said


def test_it_is_fetched_once(there, cache, tmp_path):
    assert fetch(there, cache) == [f"fetching {there}"]
    assert (cache / SHA256).read_bytes() == DATA
    (tmp_path / "there").unlink()
    assert fetch(there, cache) == [], "it is here: nobody is asked"
    assert fetch("https://host.invalid/", cache) == [], "whatever the URL"
    assert [p.name for p in cache.iterdir()] == [SHA256]


def test_a_changed_copy_is_fetched_again(there, cache):
    fetch(there, cache)
    (cache / SHA256).write_bytes(b"spoiled")
    assert fetch(there, cache) == [f"fetching {there}"]
    assert (cache / SHA256).read_bytes() == DATA


def test_another_file_is_refused_with_both_digests(there, cache):
    wanted = "0" * 64
    with pytest.raises(WorkFailed) as caught:
        fetch(there, cache, wanted)
    assert explain(caught.value) == (
        f"error: recipe.yaml:7: files[0].url: {there} gives another file: its sha256 is {SHA256}, "
        f"the recipe says {wanted}\n"
        "  hint: if the new file is the right one, write its sha256; if not, ask who serves it"
    )
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere", "No such file or directory"), ("", "Is a directory")]
)
def test_a_file_that_is_not_there(there, cache, name, said):
    url = there.rpartition("/")[0] + "/" + name
    with pytest.raises(WorkFailed) as caught:
        fetch(url, cache)
    assert explain(caught.value) == (
        f"error: recipe.yaml:7: files[0].url: {url} cannot be fetched: {said}\n  hint: correct the url"
    )


def test_a_step_gets_a_file_that_is_whole_or_none(there, cache, tmp_path):
    fetch(there, cache)
    downloads.offer(cache, SHA256, tmp_path / "link")
    assert (tmp_path / "link").samefile(cache / SHA256)
    (cache / SHA256).write_bytes(b"spoiled")
    with pytest.raises(WorkFailed, match="is missing or has changed"):
        downloads.offer(cache, SHA256, tmp_path / "second")
    assert not (tmp_path / "second").exists()
