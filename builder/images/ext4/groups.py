"""What describes the whole disk and its groups: superblock, descriptors, bitmaps."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from builder.images.ext4.geometry import BLOCK, DESCRIPTOR, GROUP, INODE, Geometry, Label, Room
from builder.images.ext4.inode import JOURNAL, Placed, crc, extent_root

COMPATIBLE = 0x4 | 0x8 | 0x20
"""has_journal, ext_attr, dir_index."""
INCOMPATIBLE = 0x2 | 0x40 | 0x80 | 0x200
"""filetype, extents, 64bit, flex_bg."""
READ_ONLY = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400
"""sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a disk on which everything has its place.

    seed    what checksums start from
    room    what is taken
    used    inodes that are taken: the first ones
    blocks, inodes, tables   where each group has its two bitmaps and its inodes
    """

    geometry: Geometry
    label: Label
    seed: int
    room: Room
    used: int
    blocks: Sequence[int]
    inodes: Sequence[int]
    tables: Sequence[int]

    def block_bitmap(self, group: int) -> bytes:
        return self.room.bitmap(group).to_bytes(BLOCK, "little")

    def inode_bitmap(self, group: int) -> bytes:
        each = self.geometry.inodes_per_group
        here = min(max(self.used - group * each, 0), each)
        bits = (1 << here) - 1 | (1 << 8 * BLOCK) - (1 << each)
        return bits.to_bytes(BLOCK, "little")

    def free_blocks(self, group: int) -> int:
        return GROUP - self.room.bitmap(group).bit_count()

    def descriptors(self, placed: Sequence[Placed]) -> bytes:
        """Of all groups, as they follow each copy of the superblock."""
        each = self.geometry.inodes_per_group
        folders = [0] * self.geometry.groups
        for one in placed:
            folders[(one.number - 1) // each] += one.node.is_folder
        out = bytearray()
        for group, where in enumerate(zip(self.blocks, self.inodes, self.tables, strict=True)):
            free = min(max((group + 1) * each - self.used, 0), each)
            of_blocks = crc(self.seed, self.block_bitmap(group))
            of_inodes = crc(self.seed, self.inode_bitmap(group)[: each // 8])
            # 0x4: the table's unused part is zero. Unused inodes are the last ones.
            text = bytearray(
                struct.pack(
                    "<IIIHHHHIHHHHIIIHHHHIHHI",
                    *(at & 0xFFFFFFFF for at in where), self.free_blocks(group), free, folders[group], 0x4, 0,
                    of_blocks & 0xFFFF, of_inodes & 0xFFFF, free, 0, *(at >> 32 for at in where), 0, 0, 0, 0, 0,
                    of_blocks >> 16, of_inodes >> 16, 0,
                )
            )  # fmt: skip
            checksum = crc(crc(self.seed, struct.pack("<I", group)), bytes(text))
            struct.pack_into("<H", text, 0x1E, checksum & 0xFFFF)
            out += text
        return bytes(out)

    def superblock(self, group: int, journal: Placed) -> bytes:
        """The copy that stands in a group."""
        g, epoch = self.geometry, self.label.epoch
        inodes = g.groups * g.inodes_per_group
        free = sum(self.free_blocks(n) for n in range(g.groups))
        size = journal.size
        text = bytearray(1024)

        def put(at: int, form: str, *values: int | bytes) -> None:
            struct.pack_into("<" + form, text, at, *values)

        put(0x00, "IIII", inodes, g.blocks & 0xFFFFFFFF, 0, free & 0xFFFFFFFF)
        put(0x10, "IIII", inodes - self.used, 0, 2, 2)
        put(0x20, "IIIII", GROUP, GROUP, g.inodes_per_group, 0, epoch)
        put(0x34, "HHHHHH", 0, 0xFFFF, 0xEF53, 1, 1, 0)
        put(0x40, "IIIIHH", epoch, 0, 0, 1, 0, 0)
        put(0x54, "IHH", 11, INODE, group)
        put(0x5C, "III", COMPATIBLE, INCOMPATIBLE, READ_ONLY)
        put(0x68, "16s16s", self.label.uuid, self.label.name)
        put(0xE0, "III16sBBH", JOURNAL, 0, 0, self.label.uuid, 1, 1, DESCRIPTOR)
        put(0x100, "III", 0xC, 0, epoch)  # mounted with user_xattr and acl
        put(0x10C, "60sII", extent_root(journal), size >> 32, size & 0xFFFFFFFF)
        put(0x150, "IIIHHI", g.blocks >> 32, 0, free >> 32, 32, 32, 1)
        put(0x174, "BB", 4, 1)  # groups of 16 for the kernel's own placing; crc32c
        put(0x3FC, "I", crc(0xFFFFFFFF, bytes(text[:0x3FC])))
        return bytes(text)
