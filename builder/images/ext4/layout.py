"""A tree turned into all that stands on the disk, in the order of the disk."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from builder.images.ext4.attributes import in_block, in_inode
from builder.images.ext4.geometry import BLOCK, GROUP, INODE, Label, Room, divide
from builder.images.ext4.groups import Groups
from builder.images.ext4.inode import (
    FOUND,
    JOURNAL,
    LEAF,
    ROOT,
    Placed,
    crc,
    entries,
    inode,
    leaf_blocks,
)
from builder.images.tree import Node


@dataclass(frozen=True, slots=True)
class Content:
    """`length` bytes of the file at `path`, from `start` on."""

    path: bytes
    start: int
    length: int


Piece = tuple[int, bytes | Content]
"""What stands at an offset of the disk, in bytes. Zeros are left out."""


def lay_out(root: Node, size: int, label: Label) -> list[Piece]:
    """Everything on a disk of `size` bytes, each offset larger than the one before.

    Raises NoSpace if it is too small, ValueError for a file with too many extended attributes.
    """
    seed = crc(0xFFFFFFFF, label.uuid)
    placed = _numbered(root, label.epoch)
    used = placed[-1].number
    geometry = divide(size, used)
    journal = _journal(geometry.blocks, label)
    placed.insert(1, journal)
    _fill_folders(placed, seed)
    room, every = Room(geometry), range(geometry.groups)
    blocks = [room.take_whole(1) for _ in every]
    inodes = [room.take_whole(1) for _ in every]
    tables = [room.take_whole(geometry.table_blocks) for _ in every]
    # What is not a file's content first: what a start of the machine looks up lies together.
    for one in sorted(placed, key=lambda p: (p.data is None, p.number)):
        _give_room(one, room)

    groups = Groups(geometry, label, seed, room, used, blocks, inodes, tables)
    pieces: list[Piece] = []
    descriptors = groups.descriptors(placed)
    for group in geometry.copies():
        at = group * GROUP * BLOCK
        text = groups.superblock(group, journal)
        pieces += [(at, text) if group else (1024, text), (at + BLOCK, descriptors)]
    known = {one.number: one for one in placed}
    for group in every:
        pieces.append((blocks[group] * BLOCK, groups.block_bitmap(group)))
        pieces.append((inodes[group] * BLOCK, groups.inode_bitmap(group)))
        first = group * geometry.inodes_per_group + 1
        rows = range(first, min(first + geometry.inodes_per_group, used + 1))
        table = [inode(known[n], seed, label.epoch) if n in known else bytes(INODE) for n in rows]
        if table:
            pieces.append((tables[group] * BLOCK, b"".join(table)))
    for one in placed:
        pieces += _own_pieces(one, seed)
    return sorted(pieces, key=lambda piece: piece[0])


def _numbered(root: Node, epoch: int) -> list[Placed]:
    """Every inode once, in the order of numbers: the root, lost+found, then as the paths come."""
    found = next((node for name, node in root.children if name == b"lost+found"), None)
    if found is None or not found.is_folder:
        found = Node(stat.S_IFDIR | 0o700, 0, 0, epoch)
        children = [child for child in root.children if child[0] != b"lost+found"]
        children.append((b"lost+found", found))
        root = replace(root, children=sorted(children, key=lambda child: child[0]))
    placed = {id(root): Placed(root, ROOT), id(found): Placed(found, FOUND)}

    def visit(folder: Node) -> None:
        for _, node in folder.children:
            if id(node) not in placed:
                placed[id(node)] = Placed(node, FOUND + len(placed) - 1)
            if node.is_folder:
                visit(node)

    visit(root)
    for one in placed.values():
        node = one.node
        if node.is_folder:
            links = 2 + sum(child.is_folder for _, child in node.children)
            one.links = links if links < 65000 else 1
        else:
            one.links = node.links
            one.size = node.size or len(node.target)
            if len(node.target) >= 60:
                one.data = node.target
    return list(placed.values())


def _journal(blocks: int, label: Label) -> Placed:
    """An empty journal of mke2fs's size: its superblock (big endian), then blocks that stay zero."""
    steps = (
        (1 << 15, 10),
        (1 << 18, 12),
        (1 << 19, 13),
        (1 << 22, 14),
        (1 << 23, 15),
        (1 << 24, 16),
    )
    length = 1 << next((power for limit, power in steps if blocks < limit), 17)
    head = struct.pack(">IIIIIIII", 0xC03B3998, 4, 0, BLOCK, length, 1, 1, 0)
    head += struct.pack(">IIII16sI", 0, 0, 0, 0, label.uuid, 1)
    node = Node(stat.S_IFREG | 0o600, 0, 0, label.epoch)
    return Placed(node, JOURNAL, data=head.ljust(BLOCK, b"\0"), size=length * BLOCK)


def _fill_folders(placed: Sequence[Placed], seed: int) -> None:
    numbers = {id(one.node): one.number for one in placed}
    parents = {ROOT: ROOT}
    for one in placed:
        parents |= {numbers[id(c)]: one.number for _, c in one.node.children if c.is_folder}
    for one in placed:
        if one.node.is_folder:
            children = [(name, child, numbers[id(child)]) for name, child in one.node.children]
            one.data = entries(one.number, parents[one.number], children, seed)
            one.size = len(one.data)


def _give_room(one: Placed, room: Room) -> None:
    if in_inode(one.node.attributes) is None:
        one.attribute_block = room.take_whole(1)
    if one.data is not None or one.node.path:
        one.runs = room.take(-(-one.size // BLOCK))
        if len(one.runs) > 4:
            one.leaves = [room.take_whole(1) for _ in range(-(-len(one.runs) // LEAF))]


def _own_pieces(one: Placed, seed: int) -> Iterator[Piece]:
    if one.attribute_block:
        own = crc(seed, struct.pack("<Q", one.attribute_block))
        block = in_block(one.node.attributes, lambda text: crc(own, text))
        yield one.attribute_block * BLOCK, block
    for number, text in leaf_blocks(one, seed):
        yield number * BLOCK, text
    done = 0
    for first, count in one.runs:
        length = min(count * BLOCK, one.size - done)
        if one.data is None:
            yield first * BLOCK, Content(one.node.path, done, length)
        elif done < len(one.data):
            yield first * BLOCK, one.data[done : done + length]
        done += length
