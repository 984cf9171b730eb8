"""A seed is an ISO 9660 volume called cidata that holds its files as given, the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import agent, seed
from tests.test_context import seed_files

FILES = {
    "philoxenia.json": b'{"a": 1}\n',
    "meta-data": b"x",
    "user-data": b"#cloud-config\n",
    "empty": b"",
}


def read(data):
    """(volume id, name -> content by Rock Ridge, by Joliet)."""
    disc = pycdlib.PyCdlib()
    disc.open_fp(io.BytesIO(data))
    found = []
    for kind in ("rr_path", "joliet_path"):
        files = {}
        for child in disc.list_children(**{kind: "/"}):
            if child.is_dir():
                continue
            if kind == "rr_path":
                name = child.rock_ridge.name().decode()
            else:
                name = child.file_identifier().decode("utf-16-be")
            out = io.BytesIO()
            disc.get_file_from_iso_fp(out, **{kind: f"/{name}"})
            files[name] = out.getvalue()
        found.append(files)
    volume = disc.pvd.volume_identifier.decode().rstrip()
    disc.close()
    return (volume, *found)


def test_all_files_under_their_own_names():
    assert read(seed.iso(FILES)) == ("cidata", FILES, FILES)


def test_a_nodes_real_seed():
    files = seed_files("head-1")
    assert read(seed.iso(files)) == ("cidata", files, files)


def test_the_same_files_give_the_same_bytes_in_any_order():
    assert seed.iso(dict(reversed(FILES.items()))) == seed.iso(FILES)


@pytest.fixture
def zone(monkeypatch):
    """Sets the time zone of this process."""

    def set_(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_
    monkeypatch.undo()
    time.tzset()


def test_golden_digest(golden, zone):
    """A changed seed is a replaced node; this tells before a user does."""
    zone("UTC")
    golden("seed-iso.sha256", hashlib.sha256(seed.iso(FILES)).hexdigest() + "\n")


def test_the_same_bytes_in_every_time_zone(zone):
    zone("UTC")
    first = seed.iso(FILES)
    zone("Asia/Tokyo")
    assert seed.iso(FILES) == first


@given(st.dictionaries(st.text("abz09-.", min_size=1, max_size=30).filter(lambda n: n.strip(".") == n),
                       st.binary(max_size=5000), max_size=5))  # fmt: skip
def test_any_files(files):
    volume, rock, joliet = read(seed.iso(files))
    assert volume == "cidata" and rock == joliet == files


def test_the_agent_finds_it(tmp_path):
    disk = tmp_path / "vdb"
    disk.write_bytes(seed.iso(FILES))
    assert agent.find_seed([str(disk)]) == str(disk)


def test_the_clock_is_left_alone():
    seed.iso(FILES)
    assert time.time() > 1_700_000_001


def test_the_clock_of_the_process_goes_on_while_an_image_is_made(monkeypatch):
    """Nodes are launched side by side (cluster.deploy): two patches at once undo each other, and time stands still."""
    real, new, seen = time.time, pycdlib.PyCdlib.new, []

    def looking(disc, **more):
        seen.append(time.time is real)
        return new(disc, **more)

    monkeypatch.setattr(pycdlib.PyCdlib, "new", looking)
    alone = seed.iso(FILES)
    assert seen == [True]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: seed.iso(FILES), range(12))) == {alone}
    assert time.time is real
