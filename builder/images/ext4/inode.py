"""An inode of a tree, its extents and its entries, as bytes with their checksums."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from google_crc32c import extend

from builder.images.ext4.attributes import in_inode
from builder.images.ext4.geometry import BLOCK, INODE, NoSpace
from builder.images.tree import Node

ROOT, JOURNAL, FOUND = 2, 8, 11
"""Numbers of the inodes that have a fixed one; the tree's others follow FOUND (/lost+found)."""
LEAF = (BLOCK - 16) // 12
"""Extents that a block of them holds."""

_KINDS = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}  # fmt: skip


@dataclass(slots=True)
class Placed:
    """An inode with its number, its content and the blocks of that.

    data    content that is not a file's: entries, a long link's target, the journal's first block
    runs    (first block, number of blocks)
    leaves  blocks that hold extents, when the inode has no room for them
    """

    node: Node
    number: int
    links: int = 1
    data: bytes | None = None
    size: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    attribute_block: int = 0


def crc(seed: int, data: bytes) -> int:
    """crc32c as ext4 has it: without the inversions at start and end."""
    return extend(seed ^ 0xFFFFFFFF, data) ^ 0xFFFFFFFF  # type: ignore[no-any-return]


def own_seed(seed: int, number: int) -> int:
    """What the checksums of an inode and its blocks start from; `seed` is the filesystem's."""
    return crc(seed, struct.pack("<II", number, 0))


def inode(placed: Placed, seed: int, epoch: int) -> bytes:
    """The inode's 256 bytes."""
    node = placed.node
    blocks = sum(count for _, count in placed.runs) + len(placed.leaves)
    sectors = (blocks + bool(placed.attribute_block)) * (BLOCK // 512)
    flags, mapped = 0, b""
    if placed.data is not None or stat.S_ISREG(node.mode):
        flags, mapped = 0x80000, extent_root(placed)
    elif stat.S_ISLNK(node.mode):
        mapped = node.target
    elif node.device != (0, 0):
        mapped = _device(*node.device)
    mtime, mtime_extra = _time(node.mtime)
    now, now_extra = _time(epoch)
    text = bytearray(
        struct.pack(
            "<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII",
            node.mode, node.uid & 0xFFFF, placed.size & 0xFFFFFFFF, now, now, mtime, 0, node.gid & 0xFFFF,
            placed.links, sectors & 0xFFFFFFFF, flags, 0, mapped, 0, placed.attribute_block & 0xFFFFFFFF,
            placed.size >> 32, 0, sectors >> 32, placed.attribute_block >> 32, node.uid >> 16, node.gid >> 16,
            0, 0, 32, 0, now_extra, mtime_extra, now_extra, now, now_extra, 0, 0,
        )
    )  # fmt: skip
    text += in_inode(node.attributes) or bytes(INODE - len(text))
    checksum = crc(own_seed(seed, placed.number), bytes(text))
    struct.pack_into("<H", text, 124, checksum & 0xFFFF)
    struct.pack_into("<H", text, 130, checksum >> 16)
    return bytes(text)


def extent_root(placed: Placed) -> bytes:
    """What of the extents is in the inode: up to four of them, or of the blocks that hold them."""
    extents = _extents(placed.runs)
    if not placed.leaves:
        return struct.pack("<HHHHI", 0xF30A, len(extents), 4, 0, 0) + b"".join(extents)
    if len(placed.leaves) > 4:
        raise NoSpace  # a file of 170 GiB
    head = struct.pack("<HHHHI", 0xF30A, len(placed.leaves), 4, 1, 0)
    for number, block in enumerate(placed.leaves):
        logical = struct.unpack_from("<I", extents[number * LEAF])[0]
        head += struct.pack("<IIHH", logical, block & 0xFFFFFFFF, block >> 32, 0)
    return head


def leaf_blocks(placed: Placed, seed: int) -> Iterator[tuple[int, bytes]]:
    """(block, its bytes) of the blocks that hold extents."""
    extents = _extents(placed.runs)
    for number, block in enumerate(placed.leaves):
        part = extents[number * LEAF : (number + 1) * LEAF]
        text = struct.pack("<HHHHI", 0xF30A, len(part), LEAF, 0, 0) + b"".join(part)
        text += bytes(12 + 12 * LEAF - len(text))
        yield block, text + struct.pack("<I", crc(own_seed(seed, placed.number), text))


def entries(
    number: int, parent: int, children: Sequence[tuple[bytes, Node, int]], seed: int
) -> bytes:
    """A folder's blocks. `children`: name, node, number."""
    rows = [(b".", number, 2), (b"..", parent, 2)]
    rows += [(name, inner, _KINDS[stat.S_IFMT(node.mode)]) for name, node, inner in children]
    blocks: list[list[bytes]] = [[]]
    room = BLOCK - 12  # each block ends with an entry of 12 bytes, its checksum
    for name, inner, kind in rows:
        entry = struct.pack("<IHBB", inner, (len(name) + 11) & ~3, len(name), kind) + name
        entry += bytes(-len(name) % 4)
        if len(entry) > room:
            blocks.append([])
            room = BLOCK - 12
        blocks[-1].append(entry)
        room -= len(entry)
    if number == FOUND:  # e2fsck puts there what it finds, and must not need room for it
        blocks += [[bytes(8)] for _ in range(4 - len(blocks))]
    return b"".join(_closed(block, own_seed(seed, number)) for block in blocks)


def _closed(block: Sequence[bytes], seed: int) -> bytes:
    """The entries as a whole block: the last of them takes what is left."""
    rest = BLOCK - 12 - sum(map(len, block))
    last = bytearray(block[-1])
    struct.pack_into("<H", last, 4, len(last) + rest)
    text = b"".join(block[:-1]) + bytes(last) + bytes(rest)
    return text + struct.pack("<IHBBI", 0, 12, 0, 0xDE, crc(seed, text))


def _extents(runs: Sequence[tuple[int, int]]) -> list[bytes]:
    out, logical = [], 0
    for first, count in runs:
        out.append(struct.pack("<IHHI", logical, count, first >> 32, first & 0xFFFFFFFF))
        logical += count
    return out


def _time(seconds: int) -> tuple[int, int]:
    """(32 bits, the extra field): 34 bits signed, no fraction."""
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return low, (seconds - signed) >> 32 & 3


def _device(major: int, minor: int) -> bytes:
    if major < 256 and minor < 256:
        return struct.pack("<II", major << 8 | minor, 0)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
