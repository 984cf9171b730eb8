"""A disk that boots itself: GRUB under SeaBIOS and under OVMF, to a root that has grown; the same disk for pygrub."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.conftest import Phx

RECIPE = """from: base
files:
  - path: /etc/systemd/system/told.service
    content: |
      [Unit]
      DefaultDependencies=no
      [Service]
      Type=oneshot
      ExecStart=/usr/local/sbin/told
      [Install]
      WantedBy=sysinit.target
  - path: /usr/local/sbin/told
    mode: 0755
    content: |
      #!/bin/sh
      # The agent grows the root meanwhile.
      n=0
      while [ $n -lt 150 ] && [ $(stat -f -c %b /) -lt 400000 ]; do sleep 0.2; n=$((n+1)); done
      firmware=BIOS; if [ -d /sys/firmware/efi ]; then firmware=UEFI; fi
      echo "told: $firmware, $(stat -f -c %b /) blocks on $(findmnt -no SOURCE /)" > /dev/console
      sleep 0.5; poweroff -f
services: {enable: [told.service]}
"""
OVMF = Path("/usr/share/OVMF")


@pytest.fixture
def disk(library: Callable[..., Phx], tmp_path: Path) -> Path:
    phx = library(selfboot=RECIPE)
    phx.run("build", "selfboot")
    phx.run("image", "export", "selfboot", tmp_path / "disk.qcow2", "--bootable")
    return tmp_path / "disk.qcow2"


def console(disk: Path, *firmware: object) -> str:
    """What the first serial line said until the machine switched itself off; its disk is twice the image's."""
    over = disk.with_name("over.qcow2")
    over.unlink(missing_ok=True)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", over, "2G"]
    subprocess.run(create, check=True)
    done = subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nodefaults", "-nographic", "-no-reboot",
         "-serial", "stdio", "-net", "none", "-drive", f"file={over},if=virtio,format=qcow2",
         *map(str, firmware)],
        capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.decode(errors="replace")


@pytest.mark.vm
def test_one_disk_boots_under_bios_and_uefi_and_grows(disk: Path) -> None:
    shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", disk.with_name("vars.fd"))
    code = f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"
    uefi = (
        "-machine",
        "q35",
        "-drive",
        code,
        "-drive",
        f"if=pflash,format=raw,file={disk.with_name('vars.fd')}",
    )
    for firmware, options in (("BIOS", ()), ("UEFI", uefi)):
        said = console(disk, *options)
        told = re.search(r"told: (\w+), (\d+) blocks on (\S+)", said)
        assert told, said[-2000:]
        assert (told[1], told[3]) == (firmware, "/dev/vda1")
        assert int(told[2]) * 4096 > 1.8 * (1 << 30), (
            "the partition and its filesystem fill the disk"
        )


@pytest.mark.root
def test_pygrub_finds_kernel_initrd_and_parameters(image: Phx, tmp_path: Path) -> None:
    disk = tmp_path / "base.disk"
    image.run("image", "export", "base", disk, "--format", "raw", "--bootable")
    [pygrub] = Path("/usr/lib").glob("xen-*/bin/pygrub")
    done = subprocess.run(
        [pygrub, "-q", f"--output-directory={tmp_path}", "--output-format=simple", disk],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    folder = Path(image.json("image", "show", "base")["folder"])  # type: ignore[call-overload,index]
    for mine, its in (("vmlinuz", "kernel"), ("initrd", "ramdisk")):
        assert Path(told[its]).read_bytes() == (folder / mine).read_bytes()
    assert re.match(r"root=PARTLABEL=root-[0-9a-f]{12} rw ", told["args"])
    assert "is no known" not in done.stderr


@pytest.mark.root
def test_the_partitions_hold_what_they_should(image: Phx, tmp_path: Path) -> None:
    disk = tmp_path / "base.disk"
    image.run("image", "export", "base", disk, "--format", "raw", "--bootable")
    shown = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True)
    assert "No errors detected" in shown.stdout, shown
    rows = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True).stdout
    start = int(re.search(r"disk1 : start= *(\d+)", rows)[1])  # type: ignore[index]
    folder = Path(image.json("image", "show", "base")["folder"])  # type: ignore[call-overload,index]
    same = subprocess.run(
        ["cmp", "-i", f"{start * 512}:0", "-n", str(1 << 30), disk, folder / "disk.raw"]
    )
    assert same.returncode == 0
    esp = int(re.search(r"disk15 : start= *(\d+)", rows)[1])  # type: ignore[index]
    listed = subprocess.run(
        ["mdir", "-b", "-/", "-i", f"{disk}@@{esp * 512}", "::"], capture_output=True, text=True
    ).stdout
    assert {"::/EFI/BOOT/BOOTX64.EFI", "::/boot/grub/grub.cfg", "::/vmlinuz", "::/initrd"} <= set(
        listed.split()
    )
    said = image.run(
        "image", "export", "base", tmp_path / "x", "--format", "tar", "--bootable", status=2
    )
    assert "--bootable: tar holds no disk" in said.stderr


READ_ONLY = """cluster: fixed
roles:
  memory:
    image: romemory
    cpu: {guarantee: 0.2, limit: 1}
    memory: 384M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    disk: 3G
  disk:
    image: rodisk
    cpu: {guarantee: 0.2, limit: 1}
    memory: 384M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    disk: 3G
"""


@pytest.mark.vm
def test_a_read_only_root_takes_changes(
    library: Callable[..., Phx], sandbox: str, tmp_path: Path
) -> None:
    phx = library(
        romemory="from: base\nroot: {format: erofs}\n",
        rodisk="from: base\nroot: {format: squashfs, changes: disk}\n",
    )
    for name in ("romemory", "rodisk"):
        phx.run("build", name)
    (tmp_path / "fixed.yaml").write_text(READ_ONLY)
    try:
        phx.run("up", tmp_path / "fixed.yaml", "--host", sandbox)
        look = (
            "set -e; echo mine > /etc/mine; cd /run/overlay; for at in / $PWD/fixed $PWD/changes; do "
            "findmnt -no FSTYPE $at; done; "
            "stat -f -c %b /run/overlay/changes; cat /run/overlay/changes/upper/etc/mine; "
            "! touch /run/overlay/fixed/x 2>/dev/null"
        )
        found = {
            node: phx.run("ssh", node, "--", look).stdout.split() for node in ("memory-1", "disk-1")
        }
        assert found["memory-1"][:3] == ["overlay", "erofs", "tmpfs"]
        assert found["disk-1"][:3] == ["overlay", "squashfs", "ext4"]
        assert {told[-1] for told in found.values()} == {"mine"}
        assert int(found["disk-1"][3]) * 4096 > 2.5 * (1 << 30), "what takes the changes has grown"
    finally:
        phx.run("down", "fixed", status=None)
