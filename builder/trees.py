"""What a folder holds, path by path: the measure by which a layer is whole, and two trees are the same.

Also runs as a program, inside a user namespace where the files' owners are ours: `python trees.py measure FOLDER`,
`list FOLDER` and `holding FOLDER` (which reads what it looks for). The standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree. `content` is a file's sha256, a link's target, a device's numbers."""

    path: str
    kind: str
    mode: int
    owner: str
    mtime: int
    size: int
    content: str
    attributes: tuple[tuple[str, str], ...]


def entries(tree: str) -> Iterator[tuple[Entry, os.stat_result]]:
    """Everything in `tree` and the folder itself ("/"), in the order of the paths, folder by folder."""
    yield _entry(tree, "/")
    yield from _below(tree, "")


def _below(tree: str, folder: str) -> Iterator[tuple[Entry, os.stat_result]]:
    for name in sorted(os.listdir(tree + folder)):
        path = f"{folder}/{name}"
        found, info = _entry(tree, path)
        yield found, info
        if found.kind == "d":
            yield from _below(tree, path)


def _entry(tree: str, path: str) -> tuple[Entry, os.stat_result]:
    where = tree + path
    info = os.lstat(where)
    kind = stat.filemode(info.st_mode)[0]
    content, size = "", 0
    if kind == "-":
        size = info.st_size
        with open(where, "rb", buffering=0) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "l":
        content = os.readlink(where)
    elif kind in "bc":
        content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    names = sorted(os.listxattr(where, follow_symlinks=False))
    attributes = tuple((n, os.getxattr(where, n, follow_symlinks=False).hex()) for n in names)
    owner = f"{info.st_uid}:{info.st_gid}"
    mode, mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
    return Entry(path, kind, mode, owner, mtime, size, content, attributes), info


def measure(tree: str) -> tuple[int, str]:
    """(bytes on disk, digest over every path with all that is known of it). A hard link is counted once."""
    seen: set[tuple[int, int]] = set()
    size, digest = 0, hashlib.sha256()
    for found, info in entries(tree):
        if (info.st_dev, info.st_ino) not in seen:
            seen.add((info.st_dev, info.st_ino))
            size += info.st_blocks * 512
        digest.update(to_json(found).encode() + b"\n")
    return size, digest.hexdigest()


BLOCK = 1 << 20


def holding(tree: str, words: Sequence[bytes]) -> list[str]:
    """The paths where one of the words is: in a file, in the name, in where a link leads, in an attribute."""
    found = []
    longest = max(map(len, words))
    for folder, folders, files in os.walk(os.fsencode(tree)):
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            texts = [name]
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                texts.append(os.readlink(path))
            texts += [
                os.getxattr(path, attribute, follow_symlinks=False)
                for attribute in os.listxattr(path, follow_symlinks=False)
            ]
            if any(word in text for word in words for text in texts) or (
                stat.S_ISREG(info.st_mode) and _in_file(path, words, longest)
            ):
                found.append("/" + os.fsdecode(os.path.relpath(path, os.fsencode(tree))))
    return sorted(found)


def _in_file(path: bytes, words: Sequence[bytes], longest: int) -> bool:
    before = b""
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            text = before + block
            if any(word in text for word in words):
                return True
            before = text[-(longest - 1) :] if longest > 1 else b""
    return False


def to_json(e: Entry) -> str:
    return json.dumps([e.path, e.kind, e.mode, e.owner, e.mtime, e.size, e.content, e.attributes])


def from_json(line: str) -> Entry:
    path, kind, mode, owner, mtime, size, content, attributes = json.loads(line)
    pairs = tuple((name, value) for name, value in attributes)
    return Entry(path, kind, mode, owner, mtime, size, content, pairs)


def main(verb: str, tree: str) -> None:
    """What a program says of a folder: one line of JSON, or (`list`) one for each path."""
    if verb == "measure":
        sys.stdout.write(json.dumps(measure(tree)) + "\n")
    elif verb == "holding":
        words = [bytes.fromhex(word) for word in json.load(sys.stdin)]
        sys.stdout.write(json.dumps(holding(tree, words)) + "\n")
    else:
        for found, _ in entries(tree):
            sys.stdout.write(to_json(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
