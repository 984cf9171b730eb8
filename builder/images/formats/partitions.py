"""A disk divided into partitions (GPT), by sfdisk; and what stands in them put there.

Names, numbers and UUIDs are given, so that the same partitions are the same bytes. Nothing is mounted, no loop device.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.run import program, run

SECTOR, MIB = 512, 1 << 20
TIMEOUT = 600.0
LINUX = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
"""The type of an amd64 root partition, by the Discoverable Partitions Specification."""
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS = "21686148-6449-6E6F-744E-656564454649"


@dataclass(frozen=True, slots=True)
class Partition:
    """number  in the table, which is not the order on the disk
    label   the GPT's name for it, which the kernel shows as PARTNAME
    size    bytes, a multiple of MIB
    content a file of which at most `size` bytes from offset `at` on are taken; the rest stays zero
    """

    number: int
    label: str
    kind: str
    size: int
    content: Path | None
    at: int = 0


def starts(parts: Sequence[Partition]) -> list[int]:
    """Where each begins, in bytes, in their order: one after the other from the first MiB on."""
    found, at = [], MIB
    for part in parts:
        found.append(at)
        at += part.size
    return found


def table(parts: Sequence[Partition], identity: uuid.UUID) -> str:
    """The input of sfdisk(8)."""
    lines = ["label: gpt", f"label-id: {uuid.uuid5(identity, 'disk')}", "unit: sectors"]
    for part, start in zip(parts, starts(parts), strict=True):
        lines.append(
            f"{part.number} : start={start // SECTOR}, size={part.size // SECTOR}, type={part.kind}, "
            f'uuid={uuid.uuid5(identity, part.label)}, name="{part.label}"'
        )
    return "\n".join(lines) + "\n"


def write(parts: Sequence[Partition], identity: uuid.UUID, into: Path) -> None:
    """A sparse disk: the partitions, and one MiB behind them for the copy of the table."""
    with into.open("xb") as disk:
        disk.truncate(starts(parts)[-1] + parts[-1].size + MIB)
    sfdisk = program("sfdisk", "fdisk")
    run(
        [sfdisk, "--quiet", "--no-reread", "--no-tell-kernel", str(into)],
        timeout=TIMEOUT, stdin=table(parts, identity).encode(),
    )  # fmt: skip
    with into.open("r+b") as disk:
        for part, start in zip(parts, starts(parts), strict=True):
            if part.content:
                with part.content.open("rb") as file:
                    copy(file.fileno(), disk.fileno(), start, part.at, part.size)


def read(disk: Path) -> list[Partition]:
    """The partitions of a disk, in their order on it, each its own content."""
    sfdisk = program("sfdisk", "fdisk")
    told = json.loads(run([sfdisk, "--json", str(disk)], timeout=TIMEOUT).text)
    rows = sorted(told["partitiontable"]["partitions"], key=lambda row: row["start"])
    return [
        Partition(
            int(row["node"].removeprefix(str(disk)).lstrip("p")), row["name"], row["type"],
            row["size"] * SECTOR, disk, row["start"] * SECTOR,
        )
        for row in rows
    ]  # fmt: skip


def copy(source: int, target: int, to: int, at: int, length: int) -> None:
    """Write up to `length` bytes of a file, from `at` on, at offset `to` of another; holes stay holes."""
    end, data = min(os.fstat(source).st_size, at + length), at
    while data < end:
        try:
            data = os.lseek(source, data, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        hole = min(end, os.lseek(source, data, os.SEEK_HOLE))
        while data < hole:
            block = os.pread(source, min(MIB, hole - data), data)
            os.pwrite(target, block, to + data - at)
            data += len(block)
