"""Other formats: what their tools leave to chance is written over, and what describes a container image is whole."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from builder.errors import InputError
from builder.images.formats.archives import layout
from builder.images.formats.bootable import config, first_sector, linked_core
from builder.images.formats.containers import SECTOR, descriptor, footer
from builder.images.formats.export import BOOTABLE, Container, OfTree, export, wanted
from builder.images.formats.partitions import BIOS, LINUX, MIB, Partition, starts, table
from builder.images.manifest import Origin
from builder.language.kinds import Format
from builder.layers import LayerStore
from tests.invented import IMAGE

SOME = uuid.UUID("12345678-1234-5678-1234-567812345678")


def vhd(made: int, unique: bytes) -> bytes:
    block = bytearray(b"conectix" + bytes(16) + made.to_bytes(4, "big") + b"qem2" + bytes(36))
    block += unique
    return bytes(block.ljust(SECTOR, b"\0"))


def test_a_vhd_footer_has_the_epoch_and_a_right_checksum() -> None:
    one = footer(vhd(11, b"a" * 16), SOME, 1_700_000_000)
    assert one == footer(vhd(22, b"b" * 16), SOME, 1_700_000_000)
    assert int.from_bytes(one[24:28], "big") == 1_700_000_000 - 946_684_800
    assert one[68:84] == SOME.bytes
    checksum = int.from_bytes(one[64:68], "big")
    assert checksum == 0xFFFFFFFF & ~sum(one[:64] + one[68:])
    assert one[:24] == vhd(0, b"")[:24] and len(one) == SECTOR


def test_a_vmdk_descriptor_has_no_chance_and_no_file_name() -> None:
    text = b'# Disk DescriptorFile\nversion=1\nCID=%s\nparentCID=ffffffff\nRW 8 SPARSE "%s"\nddb.x = "4"\n'
    one = descriptor((text % (b"4827904a", b".a.new")).ljust(10240, b"\0"), SOME)
    assert one == descriptor((text % (b"1", b".another.new")).ljust(10240, b"\0"), SOME)
    assert b"\nCID=12345678\nparentCID=ffffffff\n" in one
    assert b'RW 8 SPARSE "disk.vmdk"\n' in one
    assert len(one) == 10240


def test_a_container_image_names_its_parts_by_their_digests() -> None:
    files = layout(IMAGE, "aa" * 32, "bb" * 32, 1234)
    assert files == layout(IMAGE, "aa" * 32, "bb" * 32, 1234)
    assert list(files) == sorted(files)
    for name, data in files.items():
        if name.startswith("blobs/") and data is not None:
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    index = json.loads(files["index.json"] or b"")
    manifest = json.loads(files[_blob(index["manifests"][0]["digest"])] or b"")
    config = json.loads(files[_blob(manifest["config"]["digest"])] or b"")
    assert files[_blob(manifest["layers"][0]["digest"])] is None
    assert config["rootfs"]["diff_ids"] == [f"sha256:{'aa' * 32}"]
    assert config["created"] == "2023-11-14T22:13:20Z"


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def test_the_first_sector_loads_the_core_and_keeps_the_table() -> None:
    table, boot = bytes(440) + b"T" * 72, bytes(range(256)) * 2
    made = first_sector(table, boot, 2048)
    assert len(made) == SECTOR and made[440:] == table[440:]
    assert made[0x5C:0x64] == (2048).to_bytes(8, "little")
    assert made[:0x5C] == boot[:0x5C]
    core = bytes(1024)
    assert linked_core(core, 2048)[500:508] == (2049).to_bytes(8, "little")
    assert len(linked_core(core, 2048)) == len(core)


def test_partitions_stand_one_after_the_other_with_names_that_follow_from_the_image() -> None:
    parts = [Partition(14, "bios", BIOS, MIB, None), Partition(1, "root", LINUX, 3 * MIB, None)]
    assert starts(parts) == [MIB, 2 * MIB]
    assert table(parts, SOME) == table(parts, SOME)
    assert "1 : start=4096, size=6144, type=4F68BCE3" in table(parts, SOME)
    assert 'name="root"' in table(parts, SOME)


def test_grub_boots_the_one_entry_at_once() -> None:
    text = config(IMAGE)
    assert "set timeout=0" in text and 'menuentry "worker 1.0" {' in text
    assert (
        "linux /vmlinuz root=PARTLABEL=root-2e2e2e2e2e2e rw console=tty0 console=ttyS0 net.ifnames=0"
        in text
    )


@pytest.mark.parametrize(
    ("form", "boots", "what"),
    [
        ("qcow3", False, "--format: unknown format 'qcow3'"),
        ("xfs", False, "--format: xfs is not written: mkfs.xfs fills a filesystem from a list"),
        ("btrfs", False, "--format: btrfs is not written: mkfs.btrfs writes random UUIDs"),
        ("tar", True, "--bootable: tar holds no disk"),
        ("tar", False, "worker 1f1f1f1f1f1f was not built from layers: there is no tar of it"),
        ("raw", True, "--bootable: worker has partitions of its own: it boots as they say"),
    ],
)
def test_what_is_not_written_says_why(tmp_path: Path, form: str, boots: bool, what: str) -> None:
    image = replace(
        IMAGE, layers=(), origin=Origin("import", "ab" * 32), mounts=(("/", "/dev/sda1"),)
    )
    with pytest.raises(InputError) as caught:
        export(image, tmp_path, LayerStore(tmp_path / "layers"), form, tmp_path / "x", boots)
    assert str(caught.value).startswith(what)
    assert not (tmp_path / "x").exists()


def test_what_has_no_layers_any_more_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export(IMAGE, tmp_path, LayerStore(tmp_path / "layers"), "tar", tmp_path / "x")
    [problem] = caught.value.problems
    assert problem.what == "2 layers of worker 1f1f1f1f1f1f are gone"
    assert problem.hint == "phx image rm 1f1f1f1f1f1f; phx build worker makes both again"


@pytest.mark.parametrize(
    ("formats", "form", "boots", "names"),
    [
        ((), None, False, [("qcow2", "worker-1.0.qcow2")]),
        (
            ("vhd", "bootable-vhd"),
            None,
            False,
            [("vhd", "worker-1.0.vhd"), ("bootable-vhd", "worker-1.0-bootable.vhd")],
        ),
    ],
    ids=["none named", "named by the recipe"],
)
def test_a_folder_gets_every_format_of_the_recipe(tmp_path, formats, form, boots, names):
    found = wanted(replace(IMAGE, formats=formats), form, tmp_path, boots)
    assert found == [(kind, tmp_path / name) for kind, name in names]


def test_a_file_gets_what_is_asked_for(tmp_path):
    image, file = replace(IMAGE, formats=("tar",)), tmp_path / "a"
    assert wanted(image, None, file) == [("qcow2", file)]
    assert wanted(image, "vmdk", file, True) == [("bootable-vmdk", file)]


def test_a_recipe_may_name_every_format_that_is_written():
    disks = get_args(Container)
    assert {*disks, *get_args(OfTree), *(BOOTABLE + d for d in disks)} == set(get_args(Format))


def test_a_xen_host_gets_no_grub_that_would_start_its_kernel_alone(tmp_path):
    host = replace(IMAGE, name="xen-host", hypervisor="dom0_mem=1G")
    with pytest.raises(
        InputError, match="xen-host is a Xen host, and GRUB on a disk of ours starts no"
    ):
        export(host, tmp_path, LayerStore(tmp_path / "layers"), "raw", tmp_path / "x", True)
