"""What a tree holds, path by path, and how two trees differ: the measure for two ways to the same system."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def listing(tree: Path) -> dict[str, tuple[str, ...]]:
    """path -> (kind, mode, owner, content); the content is a digest, a link's target, or nothing for a folder."""
    found = {}
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            info = path.lstat()
            kind = stat.filemode(info.st_mode)[0]
            content = ""
            if kind == "l":
                content = str(path.readlink())
            elif kind == "-":
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            mode = f"{stat.S_IMODE(info.st_mode):o}"
            found["/" + str(path.relative_to(tree))] = (
                kind,
                mode,
                f"{info.st_uid}:{info.st_gid}",
                content,
            )
    return found


def differences(one: Path, two: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """path -> (in one, in two) wherever they are not the same; () where it is absent."""
    a, b = listing(one), listing(two)
    return {
        p: (a.get(p, ()), b.get(p, ())) for p in sorted(a.keys() | b.keys()) if a.get(p) != b.get(p)
    }
