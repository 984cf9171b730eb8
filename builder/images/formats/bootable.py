"""A disk that boots itself, on BIOS and UEFI: GRUB, kernel and initrd before the root filesystem.

    partition 14  GRUB's core for BIOS, which the first sector loads
    partition 15  FAT: GRUB for UEFI, /boot/grub/grub.cfg, kernel, initrd. pygrub of Xen reads the same file
    partition 1   the root filesystem, last on the disk, so that it can grow

Numbers as in Debian's own cloud images. GRUB is put there by us from grub-mkimage's output: grub-install wants a
mounted filesystem and a block device.
Sources: GRUB's util/setup.c and include/grub/i386/pc/boot.h (where the first sector and the first of the core keep
their addresses).
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from builder.errors import EnvironmentLacks
from builder.images.disk import seed
from builder.images.formats.partitions import (
    BIOS,
    ESP,
    LINUX,
    MIB,
    SECTOR,
    TIMEOUT,
    Partition,
    read,
    starts,
    write,
)
from builder.images.manifest import Manifest
from builder.plan import label
from builder.run import program, run

GRUB = Path("/usr/lib/grub")
_MODULES = (
    "part_gpt",
    "fat",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "echo",
    "serial",
    "terminal",
)
_PLATFORMS = {
    "i386-pc": ("grub-pc-bin", (*_MODULES, "biosdisk")),
    "x86_64-efi": ("grub-efi-amd64-bin", (*_MODULES, "efi_gop", "all_video")),
}


def config(image: Manifest) -> str:
    """grub.cfg: one entry, no waiting, screen and first serial line. pygrub's parser reads it as well."""
    words = (
        f"root=PARTLABEL={label('root', image.plan)} rw console=tty0 console=ttyS0 {image.cmdline}"
    )
    return f"""\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
set timeout=0
menuentry "{image.name} {image.version}" {{
    linux /vmlinuz {words.strip()}
    initrd /initrd
}}
"""


def disk(image: Manifest, folder: Path, into: Path) -> None:
    """Write the image as a raw disk that boots itself. EnvironmentLacks for a program that is missing."""
    identity = uuid.uuid5(seed(image.plan), "bootable")
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".boot-") as name:
        work = Path(name)
        volume = f"{identity.fields[0]:08x}"
        (work / "early.cfg").write_text(
            f"search.fs_uuid {volume[:4].upper()}-{volume[4:].upper()} root\n"
            "set prefix=($root)/boot/grub\n"
        )
        core = _core("i386-pc", work)
        esp = _esp(image, folder, work, _core("x86_64-efi", work), volume)
        parts = [
            Partition(14, "bios", BIOS, MIB, core), Partition(15, "esp", ESP, esp.stat().st_size, esp),
            *_own(image, folder / "disk.raw"),
        ]  # fmt: skip
        at = starts(parts)[0] // SECTOR
        first = core.read_bytes()
        core.write_bytes(linked_core(first, at))
        write(parts, identity, into)
        with into.open("r+b") as file:
            sector = file.read(SECTOR)
            file.seek(0)
            file.write(first_sector(sector, _module("i386-pc", "boot.img").read_bytes(), at))


def _own(image: Manifest, disk: Path) -> list[Partition]:
    """The image's disk as partitions: those that it has, or itself as one."""
    if "phx.changes=PARTLABEL=" in image.cmdline:
        return read(disk)
    return [Partition(1, label("root", image.plan), LINUX, image.size, disk)]


def first_sector(table: bytes, boot: bytes, core: int) -> bytes:
    """The disk's first sector: GRUB's code, that loads sector `core`, before the table of partitions."""
    made = bytearray(boot[:440] + table[440:])
    made[0x5C:0x64] = core.to_bytes(8, "little")
    # As grub-install does for hard disks: some BIOSes do not tell which drive they boot.
    made[0x66:0x68] = b"\x90\x90"
    return bytes(made)


def linked_core(core: bytes, at: int) -> bytes:
    """GRUB's core, whose first sector knows that the rest follows sector `at`."""
    return core[: SECTOR - 12] + (at + 1).to_bytes(8, "little") + core[SECTOR - 4 :]


def _module(platform: str, name: str) -> Path:
    found = GRUB / platform / name
    if not found.is_file():
        package = _PLATFORMS[platform][0]
        raise EnvironmentLacks(f"GRUB's {platform}/{name} is missing", f"apt-get install {package}")
    return found


def _core(platform: str, work: Path) -> Path:
    _module(platform, "kernel.img")
    made = work / platform
    run(
        [program("grub-mkimage", "grub-common"), "-O", platform, "-d", str(GRUB / platform), "-p", "/boot/grub",
         "-c", str(work / "early.cfg"), "-o", str(made), *_PLATFORMS[platform][1]],
        timeout=TIMEOUT,
    )  # fmt: skip
    return made


def _esp(image: Manifest, folder: Path, work: Path, efi: Path, volume: str) -> Path:
    """A FAT filesystem with everything that boots, by mtools; its times are the epoch, as UTC."""
    (work / "grub.cfg").write_text(config(image))
    put = {"EFI/BOOT/BOOTX64.EFI": efi, "boot/grub/grub.cfg": work / "grub.cfg",
           "vmlinuz": folder / "vmlinuz", "initrd": folder / "initrd"}  # fmt: skip
    room = sum(path.stat().st_size for path in put.values()) + 4 * MIB
    made = work / "esp"
    with made.open("xb") as file:
        file.truncate(max(32 * MIB, -(-room // MIB) * MIB))
    fat = program("mkfs.fat", "dosfstools")
    tools = {name: program(name, "mtools") for name in ("mmd", "mcopy")}
    env = {"PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1",
           "SOURCE_DATE_EPOCH": str(image.epoch)}  # fmt: skip
    # The constants first: they would take the place of the volume's number as well.
    run(
        [fat, "--invariant", "-F", "16", "-i", volume, "-n", "PHILOXENIA", str(made)],
        timeout=TIMEOUT,
    )
    run(
        [tools["mmd"], "-i", str(made), "::EFI", "::EFI/BOOT", "::boot", "::boot/grub"],
        timeout=TIMEOUT,
        env=env,
    )
    for name, path in sorted(put.items()):
        run([tools["mcopy"], "-i", str(made), str(path), f"::{name}"], timeout=TIMEOUT, env=env)
    return made
