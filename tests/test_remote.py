"""Images travel to a host once, whole and verified, and go on where they were cut; queues of a host are read by tc."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from builder.errors import WorkFailed
from builder.images import kernel
from cluster.hosts import tc, transport
from cluster.hosts.reach import Space
from cluster.hosts.remote import There
from cluster.hosts.shaping import Shape
from tests.invented import IMAGE, LAB

FAR = replace(LAB, name="far", folder="", netns="", ssh="/nonexistent/ssh_config")


class Cut(Exception):
    pass


class FarEnd:
    """The receiver in a process of its own, whose /var/lib/libvirt is elsewhere; the line can be cut or go wrong."""

    def __init__(self, root):
        self.root, self.sent, self.calls = root, 0, []
        self.cut_after, self.spoil = None, False

    def do(self, command, timeout, data):
        import shlex

        words = shlex.split(command)
        words[0] = sys.executable
        at = words.index("-c") + 2
        self.calls.append(words[at])
        words[at + 1] = str(self.root / words[at + 1].lstrip("/"))
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number, piece in enumerate(data):
            if self.cut_after is not None and words[at] == "take" and number == self.cut_after:
                process.communicate(piece[: len(piece) // 2])
                raise Cut
            self.sent += len(piece)
            with contextlib.suppress(BrokenPipeError):  # it says why
                process.stdin.write(
                    piece[:-1] + bytes([piece[-1] ^ 1]) if self.spoil and number == 1 else piece
                )
        out, err = process.communicate()
        return process.returncode, out.decode(), err.decode()

    def there(self):
        return self.root / str(FAR.image(IMAGE.id)).lstrip("/")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "image"
    made.mkdir()
    with (made / "disk.raw").open("wb") as disk:
        for n in range(3):
            disk.seek(n * (16 << 20))
            disk.write(os.urandom(1 << 20) + b"even" * (1 << 20))
        disk.truncate(64 << 20)
    (made / "initrd").write_bytes(os.urandom(1000))
    (made / "vmlinuz").write_bytes(b"no bzImage")
    (made / "manifest.json").write_text("{}")
    return made


def bring(far, folder, said=None):
    transport.bring(far.do, FAR, IMAGE, folder, (said if said is not None else []).append)


def same(far, folder):
    for name in ("disk.raw", "initrd", "vmlinuz", "manifest.json"):
        assert (far.there() / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.process
def test_an_image_travels_once_and_its_holes_do_not(tmp_path, folder):
    far, said = FarEnd(tmp_path / "far"), []
    bring(far, folder, said)
    same(far, folder)
    disk = (far.there() / "disk.raw").stat()
    assert disk.st_blocks * 512 < 20 << 20 < disk.st_size and disk.st_mode & 0o777 == 0o444
    assert 3 << 20 < far.sent < 4 << 20, "compressed, and nothing of the 49 MB of holes"
    assert said == ["image worker: 15M to host 'far'"]
    bring(far, folder, said)
    assert far.calls == ["has", "take", "finish", "has"] and len(said) == 1


def test_the_space_of_a_far_host_is_read(monkeypatch):
    far = There(FAR)
    monkeypatch.setattr(
        far, "run", lambda *_, **__: "     Avail\n8123342848\n4096\t/var/lib/libvirt/philoxenia\n"
    )
    assert far.space() == Space(8123342848, 4096)


@pytest.mark.process
def test_after_a_cut_only_the_rest_travels(tmp_path, folder):
    far, said = FarEnd(tmp_path / "far"), []
    far.cut_after = 4
    with pytest.raises(Cut):
        bring(far, folder)
    assert not far.there().exists(), "what is not whole is not there"
    before, far.cut_after = far.sent, None
    bring(far, folder, said)
    same(far, folder)
    assert said == ["image worker: 5M to host 'far', going on where it was cut"]
    assert before > 1 << 20 and far.sent < 4 << 20


@pytest.mark.process
def test_what_comes_otherwise_than_it_was_sent_does_not_count(tmp_path, folder):
    far = FarEnd(tmp_path / "far")
    far.spoil = True
    with pytest.raises(WorkFailed, match=r"disk\.raw at 4194304 came otherwise than it was sent"):
        bring(far, folder)
    assert not far.there().exists()
    far.spoil = False
    bring(far, folder)
    same(far, folder)


def test_a_host_without_python_is_told(folder):
    from builder.errors import EnvironmentLacks

    with pytest.raises(EnvironmentLacks, match="no python3"):
        transport.bring(lambda *_: (127, "", "sh: not found"), FAR, IMAGE, folder, print)


def bzimage(payload):
    """A boot sector, one of setup, and a payload that begins 16 bytes into the rest."""
    head = bytearray(0x400)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x20F).to_bytes(2, "little")
    head[0x248:0x250] = (16).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
    return bytes(head) + b"\x90" * 16 + payload + b"rest"


@pytest.mark.parametrize("how", ["xz", "gzip", "bz2", "lzma"])
def test_the_elf_file_in_a_kernel(how):
    import bz2
    import gzip
    import lzma

    elf = b"\x7fELF" + os.urandom(5000)
    packed = {
        "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), "gzip": gzip.compress,
        "bz2": bz2.compress, "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    }[how](elf)  # fmt: skip
    # The kernel's build puts the size behind what it packs.
    assert kernel.unpacked(bzimage(packed + len(elf).to_bytes(4, "little"))) == elf
    assert kernel.unpacked(elf) == elf, "what is no bzImage stays"


@pytest.mark.parametrize("payload", [b"unknown", b"\xfd7zXZ\x00broken"])
def test_a_kernel_that_cannot_be_unpacked_is_refused(payload):
    with pytest.raises(WorkFailed, match="kernel is packed"):
        kernel.unpacked(bzimage(payload))


STORE = """\
/local/domain/0/backend/vif/3 = ""
/local/domain/0/backend/vif/3/0 = ""
/local/domain/0/backend/vif/3/0/vifname = "phx1"
/local/domain/0/backend/vif/3/0/rate = "51200,50000"
/local/domain/0/backend/vif/4/0/vifname = "phx2"
/local/domain/0/backend/vif/4/0/state = "4"
"""


def test_devices_of_xenstore():
    assert tc.devices(STORE) == {
        "phx1": tc.Device("/local/domain/0/backend/vif/3/0", 8_192_000),
        "phx2": tc.Device("/local/domain/0/backend/vif/4/0", None),
    }


def _said(word, bits):
    """As Debian 12's tc prints a rate."""
    return f"{word} {bits // 1000}Kbit" if bits % 1_000_000 else f"{word} {bits // 1_000_000}Mbit"


class Dom0:
    """tc and XenStore in memory: what the batch said is what the classes are."""

    def __init__(self):
        self.host = replace(FAR, driver="xen")
        self.classes, self.store, self.batches = {}, STORE, []

    def run(self, argv, *, timeout, data=b""):
        for line in argv[-1].splitlines():
            words = line.split()
            if words[:1] == ["class"] and words[words.index("classid") + 1] == "1:10":
                rate, ceil = (
                    int(words[words.index(k) + 1].rstrip("bit")) for k in ("rate", "ceil")
                )
                says = f"class htb 1:10 parent 1:1 leaf 10: prio 0 {_said('rate', rate)} {_said('ceil', ceil)} "
                self.classes[words[words.index("dev") + 1]] = f"{says}burst 1600b cburst 1600b\n"
            elif words[:1] == ["xenstore-write"]:
                kept = [x for x in self.store.splitlines() if not x.startswith(f"{words[1]} = ")]
                self.store = "\n".join([*kept, f'{words[1]} = "{words[2]}"', ""])
        self.batches.append(argv[-1])
        first = "class htb 1:1 root rate 1Mbit ceil 1Mbit\n"
        return "".join(f"device {d}\n{first}{c}" for d, c in self.classes.items()) + self.store


def test_bandwidth_of_a_xen_guest_is_set_once_and_read_back():
    dom0 = Dom0()
    queues, shape = tc.Tc(dom0), Shape(20_000_000, 100_000_000)
    assert queues.read("phx2") == (None, None)
    assert queues.ensure("phx2", shape, shape) is True
    assert queues.read("phx2") == (shape, Shape(100_000_000, 100_000_000))
    assert '/local/domain/0/backend/vif/4/0/rate = "625000,50000"' in dom0.store
    assert queues.ensure("phx2", shape, shape) is False
    lower = Shape(1_234_567, 50_000_000)
    assert queues.ensure("phx2", lower, lower) is True
    assert queues.read("phx2")[0] == Shape(1_234_000, 50_000_000), "never more than was asked"
    assert "qdisc replace dev phx2 root" in dom0.batches[1]
    assert "qdisc replace dev phx2 root" not in dom0.batches[-1], (
        "under traffic a class is changed, no qdisc"
    )


def test_a_guest_that_is_not_there_has_no_bandwidth():
    with pytest.raises(WorkFailed, match="there is no network device phx9"):
        tc.Tc(Dom0()).ensure("phx9", Shape(1000, 2000), Shape(1000, 2000))
