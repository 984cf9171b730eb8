"""The filesystem that we write: e2fsck finds nothing wrong, debugfs finds everything; the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.images import mkext4, tree
from builder.images.ext4 import attributes
from builder.images.ext4.geometry import Label, NoSpace
from builder.images.ext4.layout import lay_out
from builder.images.tree import Node

LABEL = Label(b"root", bytes(range(16)), 1_700_000_000)
MIB = 1 << 20


def folder(*children: tuple[bytes, Node], mode: int = 0o755) -> Node:
    return Node(stat.S_IFDIR | mode, 0, 0, 5, children=sorted(children, key=lambda c: c[0]))


def file(size: int = 0, **more: object) -> Node:
    return Node(stat.S_IFREG | 0o644, 0, 0, 5, size=size, path=b"/dev/zero", **more)  # type: ignore[arg-type]


def made(root: Node, size: int, at: Path) -> Path:
    """The image with the metadata only: content of files stays zero."""
    with at.open("wb") as disk:
        disk.truncate(size)
        for offset, content in lay_out(root, size, LABEL):
            if isinstance(content, bytes):
                os.pwrite(disk.fileno(), content, offset)
    return at


def check(disk: Path) -> str:
    done = subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def debugfs(disk: Path, *commands: str) -> str:
    text = "".join(f"{c}\n" for c in commands)
    done = subprocess.run(
        ["/sbin/debugfs", "-f", "-", disk], input=text, capture_output=True, text=True
    )
    return done.stdout


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *row) for row in ((1, 6, 2**32 - 1), (2, 7, 33), (4, 4, 2**32 - 1), (16, 7, 2**32 - 1),
                                          (32, 4, 2**32 - 1))
)  # fmt: skip
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def invented() -> Node:
    """Something of every kind."""
    twice = file(3, links=2)
    return folder(
        (b"dev", folder(
            (b"console", Node(stat.S_IFCHR | 0o600, 0, 5, 5, device=(5, 1))),
            (b"far", Node(stat.S_IFBLK | 0o600, 0, 0, 5, device=(300, 70000))),
            (b"pipe", Node(stat.S_IFIFO | 0o644, 0, 0, 5)),
            (b"socket", Node(stat.S_IFSOCK | 0o755, 0, 0, 5)))),
        (b"links", folder(
            (b"59", Node(stat.S_IFLNK | 0o777, 0, 0, 5, target=b"x" * 59)),
            (b"60", Node(stat.S_IFLNK | 0o777, 0, 0, 5, target=b"y" * 60)),
            (b"4095", Node(stat.S_IFLNK | 0o777, 0, 0, 5, target=b"z" * 4095)))),
        (b"home", folder(
            (b"one", twice), (b"two", twice),
            (b"hers", Node(stat.S_IFREG | 0o4711, 70000, 80000, 5, size=70000, path=b"/dev/zero")),
            (b"old", Node(stat.S_IFREG, 0, 0, -1, path=b"/dev/zero")),
            (b"2106", Node(stat.S_IFREG, 0, 0, 2**32 + 7, path=b"/dev/zero")))),
        (b"marked", folder(
            (b"few", file(attributes=(("security.capability", CAPABILITY), ("user.a", b"")))),
            (b"many", file(attributes=(("system.posix_acl_access", ACL), ("user.a", b"b"), ("user.big", b"v" * 3000)))),
            (b"default", folder(mode=0o2775)))),
        (b"wide", folder(*((b"a rather long name of a file %d" % n, file()) for n in range(500)))),
        ("Ünïcode and a \n line".encode(), file(5000)),
    )  # fmt: skip


@pytest.mark.process
def test_of_every_kind(tmp_path: Path) -> None:
    root = invented()
    next(n for name, n in root.children if name == b"marked").children[0][1].attributes = (
        ("system.posix_acl_default", ACL),
    )
    disk = made(root, 64 * MIB, tmp_path / "disk")
    assert "531/4096 files" in check(disk)

    def shown(path: str) -> str:
        return debugfs(disk, f"stat {path}")

    assert re.search(r"Device major/minor number: 05:01", shown("/dev/console"))
    assert "Device major/minor number: 300:70000" in shown("/dev/far")
    assert "Type: FIFO" in shown("/dev/pipe")
    assert "Type: socket" in shown("/dev/socket")
    assert f'Fast link dest: "{"x" * 59}"' in shown("/links/59")
    assert "Size: 60\n" in shown("/links/60") and "Size: 4095\n" in shown("/links/4095")
    assert debugfs(disk, "cat /links/60").rstrip("\0").endswith("y" * 60)
    assert shown("/home/one") == shown("/home/two").replace("two", "one")
    assert "Links: 2" in shown("/home/one")
    hers = shown("/home/hers")
    assert re.search(r"Mode:  04711", hers) and re.search(r"User: 70000   Group: 80000", hers)
    assert re.search(r"Size: 70000\b", hers) and "Blockcount: 144" in hers
    assert " mtime: 0xffffffff:00000000" in shown("/home/old")
    assert " mtime: 0x00000007:00000001" in shown("/home/2106")
    for kind in ("atime", "ctime", "crtime"):
        assert f"{kind}: 0x6553f100:00000000" in hers
    few = debugfs(disk, "ea_list /marked/few")
    assert "security.capability (20) = 01 00 00 02 00 20 00 00" in few and "user.a (0)" in few
    many = debugfs(disk, "ea_list /marked/many")
    assert 'user.a (1) = "b"' in many and "user.big (3000)" in many
    assert "system.posix_acl_access (28) = 01 00 00 00 01 00 06 00 02 00 07 00 21 00 00 00" in many
    assert "system.posix_acl_default (28)" in debugfs(disk, "ea_list /marked/default")
    assert len(re.findall(r"a rather long name", debugfs(disk, "ls -p /wide"))) == 500


@pytest.mark.process
@pytest.mark.parametrize(
    ("why", "root", "size"),
    [
        ("the smallest", folder(), MIB * 6),
        ("no multiple of anything", folder((b"a", file(5))), 300 * MIB + 4097),
        ("more inodes than the ratio has", folder(*((b"%d" % n, file()) for n in range(3000))), 16 * MIB),
        ("a last group without room for its copies", folder(), 128 * MIB + 8192),
        ("its own lost+found", folder((b"lost+found", folder((b"x", file())))), 16 * MIB),
        ("thousands of folders in one", folder(*((b"%d" % n, folder()) for n in range(2000))), 64 * MIB),
        ("names of 255 bytes", folder(*((b"%0255d" % n, file()) for n in range(40))), 16 * MIB),
        ("one file in 370 pieces, two blocks of extents", folder((b"huge", file(45 << 30))), 64 << 30),
    ],
)  # fmt: skip
def test_e2fsck_finds_nothing(why: str, root: Node, size: int, tmp_path: Path) -> None:
    check(made(root, size, tmp_path / "disk"))


@pytest.mark.process
def test_a_real_tree_comes_back(tmp_path: Path) -> None:
    """Written with its content, read back by debugfs; listed in another order, it is the same bytes."""
    random.seed(5)
    names = [f"{n % 7}/{n}" for n in range(60)]
    digests = []
    for top, order in (("one", names), ("two", list(reversed(names)))):
        for name in order:
            path = tmp_path / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            state = random.Random(name)
            path.write_bytes(state.randbytes(state.choice((0, 1, 4095, 4096, 4097, 700_000))))
        (tmp_path / top / "link").symlink_to("3/3")
        os.link(tmp_path / top / "0" / "0", tmp_path / top / "again")
        root = tree.read(os.fsencode(tmp_path / top), 1_000_000_000)
        disk = tmp_path / f"{top}.raw"
        with disk.open("wb") as out:
            pieces = lay_out(root, 64 * MIB, LABEL)
            digests.append(mkext4.write(pieces, 64 * MIB, out.fileno()))
        assert digests[-1] == hashlib.sha256(disk.read_bytes()).hexdigest()
        assert disk.stat().st_blocks * 512 < 48 * MIB, "zeros are holes"
    assert digests[0] == digests[1]
    check(disk)
    (tmp_path / "back").mkdir()
    debugfs(disk, f"rdump / {tmp_path / 'back'}")
    for name in [*names, "again"]:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert os.readlink(tmp_path / "back" / "link") == "3/3"
    assert " mtime: 0x3b9aca00" in debugfs(disk, "stat /link"), "nothing is younger than the epoch"


def test_the_bytes_stay_what_they_are(golden) -> None:
    """Another digest here needs another `rev` of Output: the same plan must not mean two images."""
    disk = bytearray(20 * MIB)
    for at, content in lay_out(invented(), len(disk), LABEL):
        if isinstance(content, bytes):
            disk[at : at + len(content)] = content
    digest = hashlib.sha256(disk)
    golden(
        "ext4.sha256",
        digest.hexdigest() + "\n",
        hint="raise Output.rev, then pytest --update-golden",
    )


@pytest.mark.parametrize(
    "root",
    [
        folder((b"big", file(70 * MIB))),
        folder(*((b"%d" % n, file()) for n in range(40000))),
        folder((b"many", file(4096 * 20000))),
    ],
)  # fmt: skip
def test_too_large_a_tree(root: Node) -> None:
    with pytest.raises(NoSpace):
        list(lay_out(root, 64 * MIB, LABEL))


def test_too_many_attributes() -> None:
    many = tuple((f"user.{n}", b"x" * 100) for n in range(50))
    with pytest.raises(ValueError, match="more than 4 KiB"):
        list(lay_out(folder((b"a", file(attributes=many))), 16 * MIB, LABEL))


nodes = st.recursive(
    st.integers(0, 3 * MIB).map(file),
    lambda inner: st.dictionaries(
        st.binary(min_size=1, max_size=20).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 47}),
        inner, max_size=6,
    ).map(lambda found: folder(*found.items())),
    max_leaves=20,
)  # fmt: skip


@given(nodes, st.integers(6, 400))
@settings(deadline=None, max_examples=40)
def test_pieces_follow_each_other_and_end_on_the_disk(node: Node, mebibytes: int) -> None:
    root = node if node.is_folder else folder((b"it", node))
    size = mebibytes * MIB
    try:
        pieces = list(lay_out(root, size, LABEL))
    except NoSpace:
        return
    end = 0
    for at, content in pieces:
        assert at >= end
        end = at + (len(content) if isinstance(content, bytes) else content.length)
    assert end <= size


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=3000))),
    st.integers(1, 3000),
)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_what_is_digested(gaps: list[tuple[int, bytes]], rest: int) -> None:
    """Pieces with gaps between, over windows of 1000 bytes."""
    pieces, want = [], b""
    for gap, content in gaps:
        want += bytes(gap)
        pieces.append((len(want), content))
        want += content
    want += bytes(rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mkext4, "WINDOW", 1000)
        disk = os.memfd_create("disk")
        try:
            digest = mkext4.write(pieces, len(want), disk)
            assert os.pread(disk, len(want) + 1, 0) == want
        finally:
            os.close(disk)
    assert digest == hashlib.sha256(want).hexdigest()


def test_attributes_that_differ_between_machines_are_left_out(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    told = {
        "trusted.overlay.opaque": b"y",
        "security.selinux": b"x",
        "user.mine": b"z",
        "security.capability": b"c",
    }
    monkeypatch.setattr(os, "listxattr", lambda path, follow_symlinks: list(told))
    monkeypatch.setattr(os, "getxattr", lambda path, name, follow_symlinks: told[name])
    root = tree.read(os.fsencode(tmp_path), 10)
    assert root.attributes == (("security.capability", b"c"), ("user.mine", b"z"))


@pytest.mark.parametrize("length", [0, 1, 40, 68, 69, 3000])
def test_attributes_are_beside_the_inode_while_they_fit(length: int) -> None:
    told = (("user.n", b"v" * length),)
    assert (attributes.in_inode(told) is not None) == (length <= 68)
    assert len(attributes.in_block(told, lambda block: 7)) == 4096
