"""An image of our catalog brought to a host over a pipe: once per digest, compressed, without its holes, resumed.

It goes in pieces of at most PIECE bytes. Each carries a digest of what is sent and zlib's checksum of what it becomes;
the far end (receive.py) verifies both and remembers which it has, so a cut costs the piece that was under way.
Compression is zlib's quickest: what takes time is the host, which under emulation unpacks some 25 MB/s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder.errors import EnvironmentLacks, WorkFailed
from builder.images import kernel
from builder.images.manifest import Manifest
from builder.plan import Report
from cluster.hosts import store
from cluster.hosts.host import Host

PIECE = 4 << 20
AHEAD = 4
"""Pieces that are compressed while others travel."""
TIMEOUT = 1800.0
"""Seconds for one image."""
QUICK = 60.0
SCRIPT = Path(__file__).with_name("receive.py")

Do = Callable[[str, float, Iterator[bytes]], tuple[int, str, str]]
"""Runs a command on the host: (command, seconds, input) -> (status, output, error output)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of one file of the image."""

    file: str
    offset: int
    length: int


def bring(do: Do, host: Host, image: Manifest, folder: Path, report: Report) -> None:
    """See `Reach.bring`. Costs one question when the image is there."""
    there = str(host.image(image.id))
    told = json.loads(_far(do, host, QUICK, iter(()), "has", there))
    if told["whole"]:
        return
    had = {(file, offset) for file, offset in told["pieces"]}
    files, made = _files(host, folder)
    due = [p for p in pieces(files, made) if (p.file, p.offset) not in had]
    size = sum(p.length for p in due)
    again = ", going on where it was cut" if had else ""
    report(f"image {image.name}: {size >> 20}M to host '{host.name}'{again}")
    _far(do, host, TIMEOUT, packed(due, files, made), "take", there)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    sizes |= {name: len(data) for name, data in made.items()}
    _far(do, host, QUICK, iter([json.dumps(sizes).encode() + b"\n"]), "finish", there, "444")


def _files(host: Host, folder: Path) -> tuple[dict[str, Path], dict[str, bytes]]:
    """What travels: files of the catalog, and what is made of them on the way."""
    files = {name: folder / name for name in ("disk.raw", "initrd", "manifest.json")}
    if host.driver != "xen":
        return {**files, "vmlinuz": folder / "vmlinuz"}, {}
    # An emulated one has no HVM guests, whose BIOS takes a packed kernel only.
    if host.accelerator != "qemu":
        files[store.kernel("hvm")] = folder / "vmlinuz"
    # Xen's domain builder would unpack the kernel anew for each guest, in dom0's time.
    return files, {"vmlinuz": kernel.unpacked((folder / "vmlinuz").read_bytes())}


def pieces(files: dict[str, Path], made: dict[str, bytes], size: int = PIECE) -> Iterator[Piece]:
    """All that holds data, in order. A hole has no piece."""
    for name in sorted(made):
        for offset in range(0, len(made[name]), size):
            yield Piece(name, offset, min(size, len(made[name]) - offset))
    for name in sorted(files):
        with files[name].open("rb") as file:
            number, end = file.fileno(), os.fstat(file.fileno()).st_size
            at = 0
            while at < end:
                try:
                    at = os.lseek(number, at, os.SEEK_DATA)
                except OSError:  # ENXIO: nothing but a hole is left
                    break
                stop = os.lseek(number, at, os.SEEK_HOLE)
                for offset in range(at, stop, size):
                    yield Piece(name, offset, min(size, stop - offset))
                at = stop


def packed(
    due: Collection[Piece], files: dict[str, Path], made: dict[str, bytes]
) -> Iterator[bytes]:
    """The pieces as they travel, AHEAD of them in memory."""

    def pack(piece: Piece) -> bytes:
        if piece.file in made:
            data = made[piece.file][piece.offset : piece.offset + piece.length]
        else:
            with files[piece.file].open("rb") as file:
                data = os.pread(file.fileno(), piece.length, piece.offset)
        body = zlib.compress(data, 1)
        head = {
            "file": piece.file, "offset": piece.offset, "packed": len(body),
            "digest": hashlib.blake2b(body, digest_size=32).hexdigest(),
        }  # fmt: skip
        return json.dumps(head).encode() + b"\n" + body

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(pack, piece) for piece in list(due)[:AHEAD]]
        for piece in [*list(due)[AHEAD:], None]:
            if piece is not None:
                waiting.append(pool.submit(pack, piece))
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()


def _far(do: Do, host: Host, timeout: float, data: Iterator[bytes], *words: str) -> str:
    command = shlex.join(["python3", "-I", "-S", "-c", SCRIPT.read_text(), *words])
    status, out, err = do(command, timeout, data)
    if status == 127:
        raise EnvironmentLacks(
            f"host '{host.name}' has no python3, which takes images there",
            "apt-get install python3 on it",
        )
    if status != 0:
        last = (err.strip().splitlines() or ["nothing"])[-1]
        raise WorkFailed(
            f"host '{host.name}' did not take the image; it last said: {last}",
            "run the same command again: what has arrived stays",
        )
    return out
