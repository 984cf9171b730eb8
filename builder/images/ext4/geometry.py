"""How the disk is divided into groups, and its blocks are given out from the front."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, INODE, GROUP, DESCRIPTOR = 4096, 256, 32768, 64
RATIO = 16384
"""Bytes of the disk for each inode; more inodes if the tree needs them."""
RUN = 32768
"""Blocks that one extent can hold."""


class NoSpace(ValueError):
    """The tree is larger than the disk."""


@dataclass(frozen=True, slots=True)
class Label:
    """What names the filesystem. `uuid` has 16 bytes; `epoch` is every time but the files' own."""

    name: bytes
    uuid: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the disk is divided."""

    blocks: int
    groups: int
    inodes_per_group: int

    @property
    def descriptor_blocks(self) -> int:
        return -(-self.groups * DESCRIPTOR // BLOCK)

    @property
    def table_blocks(self) -> int:
        return self.inodes_per_group * INODE // BLOCK

    def copies(self) -> list[int]:
        """Groups that begin with a superblock and the descriptors: 0, 1 and the powers of 3, 5 and 7."""
        found = {0, 1}
        for base in (3, 5, 7):
            power = base
            while power < self.groups:
                found.add(power)
                power *= base
        return sorted(group for group in found if group < self.groups)


def divide(size: int, inodes: int) -> Geometry:
    """A disk of `size` bytes with room for that many inodes."""
    blocks = size // BLOCK
    groups = -(-blocks // GROUP)
    whole = Geometry(blocks, groups, 0)
    rest = blocks - (groups - 1) * GROUP
    if groups > 1 and groups - 1 in whole.copies() and rest < whole.descriptor_blocks + 51:
        groups, blocks = groups - 1, blocks - rest  # nothing else would fit into the last group
    if blocks < 64:
        raise NoSpace
    wanted = max(blocks * BLOCK // RATIO, inodes)
    per_group = -(-wanted // groups // 16) * 16
    if per_group > 8 * BLOCK:
        raise NoSpace
    return Geometry(blocks, groups, per_group)


class Room:
    """The disk's blocks, taken from the front; the copies of the superblock are taken already."""

    def __init__(self, geometry: Geometry) -> None:
        length = 1 + geometry.descriptor_blocks
        self.end = geometry.blocks
        self.taken = [(group * GROUP, group * GROUP + length) for group in geometry.copies()]
        self._ahead = [*self.taken, (self.end, self.end)]
        self._next = 0

    def take(self, count: int) -> list[tuple[int, int]]:
        """(first block, number) of the pieces that hold `count` blocks."""
        found = []
        while count:
            here = min(count, self._free(), RUN)
            found.append(self._use(here))
            count -= here
        return found

    def take_whole(self, count: int) -> int:
        """The first of `count` blocks in one piece."""
        while self._free() < count:
            self._next = self._ahead[0][0]
        return self._use(count)[0]

    def _free(self) -> int:
        """Free blocks up to the next that is taken, at least one."""
        while self._ahead and self._next == self._ahead[0][0]:
            self._next = self._ahead.pop(0)[1]
        if not self._ahead:
            raise NoSpace
        return self._ahead[0][0] - self._next

    def _use(self, count: int) -> tuple[int, int]:
        first = self._next
        self._next += count
        if self.taken and self.taken[-1][1] == first:
            self.taken[-1] = self.taken[-1][0], self._next
        else:
            self.taken.append((first, self._next))
        return first, count

    def bitmap(self, group: int) -> int:
        """Bit N is set when block N of the group is taken, or beyond the disk's end."""
        first, bits = group * GROUP, 0
        for start, end in [*self.taken, (self.end, (group + 1) * GROUP)]:
            low, high = max(start - first, 0), min(end - first, GROUP)
            if low < high:
                bits |= ((1 << (high - low)) - 1) << low
        return bits
