"""A raw disk in another hypervisor's container, by qemu-img; and its stamps of clock and chance written over.

Sources: "Virtual Hard Disk Image Format Specification" 1.0 (the footer); "VMware Virtual Disk Format" 1.1 (the
descriptor, for which qemu-img leaves 20 sectors).
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from builder.run import program, run

TIMEOUT = 1800.0
OPTIONS: dict[str, list[str]] = {
    "raw": ["-O", "raw"],
    "qcow2": ["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
    "vmdk": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "vhd": ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
}
SECTOR = 512
_DESCRIPTOR = SECTOR, 20 * SECTOR
_YEAR_2000 = 946_684_800


def convert(disk: Path, form: str, into: Path, identity: uuid.UUID, epoch: int) -> None:
    """Write the raw `disk` to `into` as one of OPTIONS. Raises CommandFailed, EnvironmentLacks, TimedOut."""
    qemu = program("qemu-img", "qemu-utils")
    run([qemu, "convert", "-f", "raw", *OPTIONS[form], str(disk), str(into)], timeout=TIMEOUT)
    with into.open("r+b") as file:
        match form:
            case "vmdk":
                start, length = _DESCRIPTOR
                file.seek(start)
                text = descriptor(file.read(length), identity)
                file.seek(start)
                file.write(text)
            case "vhd":
                # A copy of the footer opens the file.
                for at in (0, file.seek(-SECTOR, 2)):
                    file.seek(at)
                    text = footer(file.read(SECTOR), identity, epoch)
                    file.seek(at)
                    file.write(text)
            case _:
                pass


def descriptor(block: bytes, identity: uuid.UUID) -> bytes:
    """A VMDK's descriptor with a content id that follows from `identity`, and no name of a file that is gone."""
    text = block.rstrip(b"\0")
    text = re.sub(rb"(?m)^CID=.*$", b"CID=%08x" % identity.fields[0], text)
    text = re.sub(rb'(?m)^(RW \d+ SPARSE) ".*"$', rb'\1 "disk.vmdk"', text)
    return text.ljust(len(block), b"\0")


def footer(block: bytes, identity: uuid.UUID, epoch: int) -> bytes:
    """A VHD's footer made at `epoch`, with that identity and its checksum: the bytes' sum, complemented."""
    made = bytearray(block)
    made[24:28] = max(0, epoch - _YEAR_2000).to_bytes(4, "big")
    made[64:68] = bytes(4)
    made[68:84] = identity.bytes
    made[64:68] = (0xFFFFFFFF & ~sum(made)).to_bytes(4, "big")
    return bytes(made)
