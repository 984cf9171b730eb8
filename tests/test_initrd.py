"""The initrd loads what was asked in an order that works, and its archive reads back file by file."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import WorkFailed, explain
from builder.images import initrd

DEP = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
"""
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/xen-blkfront.ko\n"
VIRTIO, RING = "kernel/drivers/virtio/virtio.ko", "kernel/drivers/virtio/virtio_ring.ko"
PCI, BLK = "kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/block/virtio_blk.ko.xz"
RNG = "kernel/drivers/char/hw_random/virtio-rng.ko"


@pytest.mark.parametrize(
    ("why", "wanted", "order"),
    [
        ("nothing", [], []),
        (
            "what it depends on first, the farthest first of all",
            ["virtio_pci"],
            [VIRTIO, RING, PCI],
        ),
        ("in the order asked, each once", ["virtio_pci", "virtio_blk"], [VIRTIO, RING, PCI, BLK]),
        ("the other way round", ["virtio_blk", "virtio_pci"], [VIRTIO, RING, BLK, PCI]),
        ("dashes and underscores are alike", ["virtio-rng"], [VIRTIO, RING, RNG]),
        ("and underscores for dashes", ["virtio_rng"], [VIRTIO, RING, RNG]),
        ("in the kernel already", ["ext4", "xen-blkfront", "xen_blkfront"], []),
        ("asked twice", ["virtio", "virtio"], [VIRTIO]),
    ],
)
def test_load_order(why, wanted, order):
    assert initrd.load_order(wanted, DEP, BUILTIN) == order, why


def test_a_module_that_the_kernel_has_not_is_named():
    with pytest.raises(WorkFailed) as caught:
        initrd.load_order(["virtio_pci", "virtio_scsi"], DEP, BUILTIN)
    assert explain(caught.value) == (
        "error: the kernel has no module 'virtio_scsi'\n  hint: correct 'modules' of the recipe's kernel"
    )


@given(
    st.permutations(["virtio_pci", "virtio_blk", "virtio-rng", "virtio", "ext4"]), st.integers(0, 5)
)
def test_nothing_is_loaded_before_what_it_needs(names, count):
    order = initrd.load_order(names[:count], DEP, BUILTIN)
    needs = {line.partition(":")[0]: line.partition(":")[2].split() for line in DEP.splitlines()}
    assert len(set(order)) == len(order)
    for n, path in enumerate(order):
        assert set(needs[path]) <= set(order[:n])


def unpack(data: bytes):
    """(name, fields, content) of each entry: buffer-format.rst, read by its letter."""
    names = (
        "ino",
        "mode",
        "uid",
        "gid",
        "nlink",
        "mtime",
        "filesize",
        "maj",
        "min",
        "rmaj",
        "rmin",
        "namesize",
        "chksum",
    )
    at, found = 0, []
    while True:
        assert at % 4 == 0 and data[at : at + 6] == b"070701"
        head = dict(
            zip(
                names,
                (int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)),
                strict=True,
            )
        )
        at += 110
        name = data[at : at + head["namesize"]]
        assert name.endswith(b"\0") and b"\0" not in name[:-1]
        at = -(-(at + head["namesize"]) // 4) * 4
        content = data[at : at + head["filesize"]]
        assert len(content) == head["filesize"]
        at = -(-(at + head["filesize"]) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return found
        found.append((name[:-1].decode(), head, content))


@given(st.lists(st.tuples(st.text("abc/.-", min_size=1, max_size=30), st.sampled_from([0o100644, 0o100755, 0o40755]),
                          st.binary(max_size=40)), max_size=6))  # fmt: skip
def test_an_archive_reads_back(entries):
    found = unpack(initrd.cpio(entries))
    assert [(name, head["mode"], content) for name, head, content in found] == entries
    for number, (_, head, _) in enumerate(found, 1):
        assert head["ino"] == number and head["nlink"] == 1
        assert all(
            head[k] == 0 for k in ("uid", "gid", "mtime", "maj", "min", "rmaj", "rmin", "chksum")
        )


def test_a_name_may_have_any_letters():
    assert [e[0] for e in unpack(initrd.cpio([("größe", 0o100644, b"x")]))] == ["größe"]


MODULES = {"virtio.ko": b"one", "virtio_blk.ko": b"three", "virtio_ring.ko": b"two"}
ORDER = ["virtio.ko", "virtio_ring.ko", "virtio_blk.ko"]


def test_what_an_initrd_holds():
    found = {
        name: (oct(head["mode"]), content)
        for name, head, content in unpack(initrd.pack(b"box", MODULES, ORDER))
    }
    assert found["bin/busybox"] == ("0o100755", b"box")
    assert found["init"][0] == "0o100755" and found["init"][1].startswith(b"#!/bin/busybox sh\n")
    assert found["modules/order"] == ("0o100644", b"virtio.ko\nvirtio_ring.ko\nvirtio_blk.ko\n")
    assert {n: c for n, (_, c) in found.items() if n.endswith(".ko")} == {
        f"modules/{n}": c for n, c in MODULES.items()
    }
    assert {"bin", "dev", "modules", "proc", "root", "run", "sys"} == {
        n for n, (mode, _) in found.items() if mode == "0o40755"
    }


def test_the_console_is_a_device():
    [(_, head, _)] = [e for e in unpack(initrd.pack(b"", {}, [])) if e[0] == "dev/console"]
    assert (oct(head["mode"]), head["rmaj"], head["rmin"]) == ("0o20600", 5, 1)


def test_folders_come_before_what_is_in_them():
    names = [name for name, _, _ in unpack(initrd.pack(b"", MODULES, ORDER))]
    for n, name in enumerate(names):
        folder = name.rpartition("/")[0]
        assert not folder or folder in names[:n]


def test_the_same_parts_give_the_same_bytes():
    assert initrd.pack(b"x", MODULES, ORDER) == initrd.pack(
        b"x", dict(reversed(MODULES.items())), ORDER
    )


@pytest.mark.process
def test_init_is_a_script_that_sh_can_read():
    done = subprocess.run(["sh", "-n"], input=initrd.INIT.encode(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f'echo "{initrd.PROBE}"' in initrd.INIT
