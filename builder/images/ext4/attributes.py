"""Extended attributes as ext4 stores them: beside the inode's fields, or in a block of their own when they are many.

Format: Documentation/filesystems/ext4/attributes.rst in the kernel; for access lists, fs/ext4/acl.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

MAGIC = 0xEA020000
ROOM, BLOCK = 96, 4096
"""Bytes of an inode of 256 that its fields leave, and of a block."""

_PREFIXES = (
    ("system.posix_acl_access", 2), ("system.posix_acl_default", 3), ("user.", 1), ("security.", 6),
)  # fmt: skip

Attributes = Sequence[tuple[str, bytes]]


def in_inode(attributes: Attributes) -> bytes | None:
    """What follows the inode's fields. None if they do not fit."""
    if not attributes:
        return bytes(ROOM)
    packed = _pack(attributes, ROOM - 4, 0, hashed=False)
    return None if packed is None else struct.pack("<I", MAGIC) + packed


def in_block(attributes: Attributes, checksum: Callable[[bytes], int]) -> bytes:
    """A block of attributes. ValueError if they are too many.

    checksum  of the block that has a zero where the checksum will be
    """
    packed = _pack(attributes, BLOCK - 32, 32, hashed=True)
    if packed is None:
        raise ValueError("extended attributes of more than 4 KiB on one file")
    whole = 0
    for value in _hashes(packed):
        whole = (whole << 16 ^ whole >> 16 ^ value) & 0xFFFFFFFF
    block = bytearray(struct.pack("<IIIIIIII", MAGIC, 1, 1, whole, 0, 0, 0, 0) + packed)
    struct.pack_into("<I", block, 16, checksum(bytes(block)))
    return bytes(block)


def _pack(attributes: Attributes, room: int, base: int, *, hashed: bool) -> bytes | None:
    """Entries from the front, values from the back; `base` is where offsets count from, before the first entry."""
    rows = []
    for full, value in attributes:
        prefix, index = next((p, i) for p, i in _PREFIXES if full.startswith(p))
        name = full.removeprefix(prefix).encode()
        rows.append((index, len(name), name, _access_list(value) if index in (2, 3) else value))
    if (
        4
        + sum(16 + length + 3 & ~3 for _, length, _, _ in rows)
        + sum(len(row[3]) + 3 & ~3 for row in rows)
        > room
    ):
        return None
    head, tail = b"", b""
    for index, length, name, value in sorted(rows):
        padded = value + bytes(-len(value) % 4)
        tail = padded + tail
        at = base + room - len(tail) if value else 0
        mark = _hash(name, padded) if hashed else 0
        head += (
            struct.pack("<BBHIII", length, index, at, 0, len(value), mark)
            + name
            + bytes(-length % 4)
        )
    return head + bytes(room - len(head) - len(tail)) + tail


def _hash(name: bytes, padded: bytes) -> int:
    value = 0
    for char in name:
        value = (value << 5 ^ value >> 27 ^ char) & 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", padded):
        value = (value << 16 ^ value >> 16 ^ word) & 0xFFFFFFFF
    return value


def _hashes(packed: bytes) -> list[int]:
    """The hash of each entry, in order."""
    found, at = [], 0
    while packed[at : at + 4] != bytes(4):
        found.append(struct.unpack_from("<I", packed, at + 12)[0])
        at += 16 + (packed[at] + 3) // 4 * 4
    return found


def _access_list(value: bytes) -> bytes:
    """From the kernel's form of a POSIX access list to ext4's, which names ids only where they mean something."""
    out = struct.pack("<I", 1)
    for tag, rights, who in struct.iter_unpack("<HHI", value[4:]):
        out += (
            struct.pack("<HHI", tag, rights, who)
            if tag in (2, 8)
            else struct.pack("<HH", tag, rights)
        )
    return out
