"""What the inside of an image or a disk must do, said once: over the fake in memory here, over libguestfs and over
layers in tests/vm/test_inside.py.

Whatever is given to the contracts holds FILES.
"""

from __future__ import annotations

import pytest

from builder.errors import WorkFailed
from builder.images.inside.interior import Entry, FakeInterior, Interior, Readable
from builder.images.manifest import WHOLE

FILES: dict[str, tuple[bytes | str, int]] = {
    "/etc/motd": (b"hello\n", 0o644),
    "/etc/link": ("motd", 0o777),
    "/etc/deep/one": (b"1", 0o600),
    "/etc/deep/two": (bytes(range(256)) * 4000, 0o755),
}


class ReadableContract:
    @pytest.fixture
    def interior(self) -> Readable:
        raise NotImplementedError

    def test_a_folder_is_listed_with_what_is_known_of_each_name(self, interior):
        folder = {e.name: e for e in interior.list("/etc")}
        assert folder["motd"] == Entry("motd", "file", 0o644, 0, 0, 6)
        assert folder["link"] == Entry("link", "link", 0o777, 0, 0, 4, "motd")
        assert folder["deep"].kind == "folder"
        assert [e.name for e in interior.list("/etc/deep")] == ["one", "two"]

    def test_a_file_is_read_through_links(self, interior):
        assert interior.read("/etc/motd") == interior.read("/etc/link") == b"hello\n"

    @pytest.mark.parametrize("path", ["/etc", "/etc/nothing"])
    def test_what_is_no_file_is_not_read(self, interior, path):
        with pytest.raises(WorkFailed, match=path):
            interior.read(path)

    def test_what_is_no_folder_is_not_listed(self, interior):
        with pytest.raises(WorkFailed, match="/etc/nothing cannot be listed"):
            interior.list("/etc/nothing")

    def test_files_and_folders_are_copied_out(self, interior, tmp_path):
        interior.take("/etc/deep/two", tmp_path / "two")
        interior.take("/etc/deep", tmp_path / "folder")
        whole = FILES["/etc/deep/two"][0]
        assert (tmp_path / "two").read_bytes() == (tmp_path / "folder/two").read_bytes() == whole
        assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "two"]

    def test_what_is_not_there_is_not_copied_out(self, interior, tmp_path):
        with pytest.raises(WorkFailed, match="/etc/nothing cannot be"):
            interior.take("/etc/nothing", tmp_path / "nothing")


class InteriorContract(ReadableContract):
    def test_a_folder_is_copied_in(self, interior, tmp_path):
        (tmp_path / "top/below").mkdir(parents=True)
        (tmp_path / "top/below/file").write_bytes(b"one")
        (tmp_path / "top/below/file").chmod(0o751)
        interior.put(tmp_path / "top", "/srv/put")
        assert interior.list("/srv/put/below") == (Entry("file", "file", 0o751, 0, 0, 3),)

    def test_a_file_is_written_with_the_folders_above_it(self, interior):
        data = bytes(range(256)) * 20_000
        interior.write("/srv/new/file", data, 0o640)
        assert interior.read("/srv/new/file") == data
        assert interior.list("/srv/new") == (Entry("file", "file", 0o640, 0, 0, len(data)),)

    def test_a_link_in_a_files_place_is_replaced_not_followed(self, interior):
        interior.write("/srv/real", b"real", 0o644)
        interior.link("/srv/alias", "real")
        interior.write("/srv/alias", b"other", 0o644)
        assert (interior.read("/srv/real"), interior.read("/srv/alias")) == (b"real", b"other")

    def test_removing_and_linking_may_be_done_twice(self, interior):
        interior.write("/srv/gone/file", b"", 0o644)
        interior.write("/srv/gone/other", b"", 0o644)
        for _ in range(2):
            interior.remove("/srv/gone/file")
            interior.link("/srv/gone/link", "/etc/motd")
        assert [e.name for e in interior.list("/srv/gone")] == ["link", "other"]
        assert interior.list("/srv/gone")[0].target == "/etc/motd"


class TestFake(InteriorContract):
    @pytest.fixture
    def interior(self) -> Interior:
        fake = FakeInterior(files=dict(FILES))
        fake.enter(WHOLE)
        return fake
