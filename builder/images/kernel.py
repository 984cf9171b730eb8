"""A compressed Linux kernel turned into the ELF file that is in it.

Boot protocol 2.08: Documentation/arch/x86/boot.rst, payload_offset and payload_length.
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import struct
import zlib
from collections.abc import Callable

from builder.errors import CommandFailed, WorkFailed
from builder.run import run

_HEADER = 0x1F1
_SECTOR = 512
_ELF = b"\x7fELF"


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


def _program(*argv: str) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        # The four bytes of the size that follow the frame are no part of it: the program complains of them.
        return run(argv, timeout=60, stdin=data[:-4]).stdout

    return unpack


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)),
    (b"\x1f\x8b", _gunzip),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
    (b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data)),
    (b"\x28\xb5\x2f\xfd", _program("zstd", "-dqc")),
    (b"\x02\x21\x4c\x18", _program("lz4", "-dqc")),
)


def unpacked(image: bytes) -> bytes:
    """The ELF file in a bzImage; what is no bzImage comes back as it is.

    Raises WorkFailed when what is in it cannot be unpacked.
    """
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return image
    sectors = image[_HEADER] or 4
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        return image
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * _SECTOR + offset
    payload = image[start : start + length]
    for magic, unpack in _FORMATS:
        if payload.startswith(magic):
            with contextlib.suppress(lzma.LZMAError, zlib.error, OSError, CommandFailed):
                found = unpack(payload)
                if found.startswith(_ELF):
                    return found
            break
    raise WorkFailed(
        "the kernel is packed in a way that is not known", "name another kernel package"
    )
