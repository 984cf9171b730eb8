"""libguestfs for real: its machine made once, its contract on a disk of a few files."""

from __future__ import annotations

import subprocess

import pytest

from builder.errors import TimedOut, WorkFailed
from builder.images.catalog import Catalog
from builder.images.guest import WHOLE, Interior, Libguestfs
from builder.images.supermin import Machine, machine
from tests.contract.test_guest import FILES, InteriorContract

pytestmark = pytest.mark.vm


@pytest.fixture(scope="session")
def supermin(image) -> Machine:
    return machine(image.home, Catalog(image.home / "images"), print)


@pytest.fixture(scope="session")
def disk(tmp_path_factory):
    """An ext4 disk that holds FILES."""
    top = tmp_path_factory.mktemp("disk")
    for path, (data, mode) in FILES.items():
        place = top / "tree" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str):
            place.symlink_to(data)
        else:
            place.write_bytes(data)
            place.chmod(mode)
    argv = ["mke2fs", "-q", "-t", "ext4", "-d", top / "tree", top / "disk.raw", "64M"]
    subprocess.run(argv, check=True)
    return top / "disk.raw"


@pytest.fixture(scope="session")
def opened(disk, supermin):
    with Libguestfs(disk, "raw", supermin, write=True) as interior:
        interior.enter(WHOLE)
        yield interior


class TestLibguestfs(InteriorContract):
    @pytest.fixture
    def interior(self, opened) -> Interior:
        return opened

    def test_there_is_no_system_on_it(self, opened):
        with pytest.raises(WorkFailed, match="a command in the image failed"):
            opened.run("true")

    def test_freed_blocks_become_holes(self, opened, disk):
        opened.write("/srv/large", b"x" * (16 << 20), 0o644)
        opened.trim()  # which writes what is due
        large = disk.stat().st_blocks
        opened.remove("/srv/large")
        opened.trim()
        assert large - disk.stat().st_blocks > 2 * (15 << 10)


def test_a_machine_is_made_once(supermin, image):
    again = machine(image.home, Catalog(image.home / "images"), pytest.fail)
    assert again == supermin


def test_what_does_not_end_in_time_is_stopped(disk, supermin):
    with pytest.raises(TimedOut, match="did not end in time; its machine last said: "):
        Libguestfs(disk, "raw", supermin, deadline=1)


def test_what_is_no_disk_is_told(tmp_path, supermin):
    with pytest.raises(WorkFailed, match="nowhere cannot be opened: No such file"):
        Libguestfs(tmp_path / "nowhere", "raw", supermin)
