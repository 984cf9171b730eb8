"""The far end of an image's transport: runs on the host by its python3, alone, standard library only.

    has FOLDER            writes a line: {"whole": bool, "pieces": [[file, offset], ...]}
    take FOLDER           reads pieces: a line {"file", "offset", "packed", "digest"}, then `packed` bytes of zlib
    finish FOLDER MODE    reads a line {file: size, ...}; FOLDER is there afterwards, and whole

A piece counts once its BLAKE2 digest was right and its bytes are on the disk; what counts is written down, so whoever
comes after a cut brings the rest. Until it is whole the image lies in FOLDER.part. Where nothing was brought is a hole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import zlib
from pathlib import Path


def pieces(part: Path) -> list[list[object]]:
    """Those that count, [file, offset] each."""
    found = []
    if (part / "pieces").exists():
        for line in (part / "pieces").read_text().splitlines():
            with contextlib.suppress(ValueError):  # one that a cut left behind
                found.append(json.loads(line))
    return found


def take(part: Path) -> None:
    part.mkdir(parents=True, exist_ok=True)
    source = sys.stdin.buffer
    with (part / "pieces").open("a") as done:
        done.write("\n" if done.tell() else "")  # whatever a cut left of a line ends here
        while (line := source.readline()).strip():
            told = json.loads(line)
            packed = source.read(told["packed"])
            place = f"{told['file']} at {told['offset']}"
            if len(packed) != told["packed"]:
                sys.exit(f"the transport was cut in {place}")
            if hashlib.blake2b(packed, digest_size=32).hexdigest() != told["digest"]:
                sys.exit(f"{place} came otherwise than it was sent")
            file = os.open(part / Path(told["file"]).name, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(file, zlib.decompress(packed), told["offset"])
                os.fdatasync(file)
            finally:
                os.close(file)
            done.write(json.dumps([told["file"], told["offset"]]) + "\n")
            done.flush()


def finish(part: Path, folder: Path, mode: int) -> None:
    for name, size in json.loads(sys.stdin.readline()).items():
        path = part / Path(name).name
        with path.open("ab") as file:
            file.truncate(size)
        path.chmod(mode)
    (part / "pieces").unlink()
    part.rename(folder)


def main() -> None:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    part = folder.with_name(folder.name + ".part")
    if verb == "has":
        sys.stdout.write(json.dumps({"whole": folder.is_dir(), "pieces": pieces(part)}) + "\n")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # another brought it while we waited
            while sys.stdin.buffer.read(1 << 20):
                pass
            return
        if verb == "take":
            take(part)
        else:
            finish(part, folder, int(sys.argv[3], 8))


if __name__ == "__main__":
    main()
