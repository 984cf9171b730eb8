"""Writes a tree as an ext4 image and digests it on the way: one reading of the tree, one writing of the image.

Runs as a program inside a chamber, where the tree's owners are what they are in the image:
`python -m builder.images.mkext4 TREE DISK SIZE UUID EPOCH`; the disk's sha256 goes to standard output.
Memory: the names and times of the tree, and a few windows of the image. No file is ever held whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator

from builder.images import tree
from builder.images.ext4.geometry import Label, NoSpace
from builder.images.ext4.layout import Content, Piece, lay_out

WINDOW = 1 << 19
"""Bytes that are filled, written and digested at once."""
AHEAD = 8
"""Windows that may wait for the digest."""


def write(pieces: Iterable[Piece], size: int, disk: int) -> str:
    """Write the pieces, in the order of their offsets, to the open empty file `disk`; its sha256. Zeros are holes."""
    os.ftruncate(disk, size)
    digest, zeros = hashlib.sha256(), bytes(WINDOW)
    waiting: queue.Queue[bytes | bytearray | None] = queue.Queue(AHEAD)

    def digesting() -> None:
        while (block := waiting.get()) is not None:
            digest.update(block)

    thread = threading.Thread(target=digesting, daemon=True)
    thread.start()
    window, at = bytearray(WINDOW), 0

    def move(to: int) -> None:
        """Finish windows until the one that holds offset `to`."""
        nonlocal window, at
        while to >= at + WINDOW:
            length = min(WINDOW, size - at)
            if window.startswith(zeros):
                waiting.put(zeros[:length])
            else:
                os.pwrite(disk, memoryview(window)[:length], at)
                waiting.put(window[:length] if length < WINDOW else window)
                window = bytearray(WINDOW)
            at += WINDOW

    for offset, content in pieces:
        with _reading(content) as read:
            done, length = 0, len(content) if isinstance(content, bytes) else content.length
            while done < length:
                move(offset + done)
                here = offset + done - at
                done += read(done, memoryview(window)[here : here + length - done])
    move(-(-size // WINDOW) * WINDOW)
    waiting.put(None)
    thread.join()
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(content: bytes | Content) -> Iterator[Callable[[int, memoryview], int]]:
    """A function that fills a room from an offset of the content; how much it put there."""
    if isinstance(content, bytes):

        def copy(start: int, room: memoryview) -> int:
            part = content[start : start + len(room)]
            room[: len(part)] = part
            return len(part)

        yield copy
        return
    file = os.open(content.path, os.O_RDONLY | os.O_NOFOLLOW)

    def read(start: int, room: memoryview) -> int:
        count = os.preadv(file, [room], content.start + start)
        if not count:
            raise ValueError(f"{os.fsdecode(content.path)} became shorter")
        return count

    try:
        yield read
    finally:
        os.close(file)


def main(top: str, into: str, size: int, identity: str, epoch: int) -> None:
    label = Label(b"root", uuid.UUID(identity).bytes, epoch)
    try:
        pieces = lay_out(tree.read(os.fsencode(top), epoch), size, label)
        disk = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        print(write(pieces, size, disk))
    except NoSpace:
        sys.exit("No space left in the filesystem")
    except ValueError as cause:
        sys.exit(str(cause))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
