"""Disks of others: what is found in them, which are refused, and what is remembered of where they came from.

qemu-img and cp are real; the inside of a disk is the fake's.
"""

from __future__ import annotations

import contextlib
import datetime
import subprocess
from dataclasses import replace

import pytest

from builder.errors import InputError, WorkFailed, explain
from builder.images.catalog import Catalog
from builder.images.formats.export import export
from builder.images.inside import adopt, customize, foreign
from builder.images.inside.cli import _pairs, _plain
from builder.images.inside.customize import Command, Copy, Put, Remove
from builder.images.inside.interior import Entry, FakeInterior, System
from builder.images.manifest import Origin, PackageFact
from builder.images.sbom.cli import provenance
from builder.layers import LayerStore
from tests.invented import IMAGE

NOW = datetime.datetime(2026, 11, 25, 8, tzinfo=datetime.UTC)
DEBIAN = System(
    "debian", "Debian GNU/Linux 12 (bookworm)", "12.4", (("/", "/dev/vda1"), ("/boot/efi", "/dev/vda15")),
    "1234-abcd", (PackageFact("cloud-init", "22.4", "all", "cloud-init"),),
)  # fmt: skip
FILES: dict[str, tuple[bytes | str, int]] = {
    "/boot/vmlinuz-6.1.0-9-amd64": (b"old", 0o644),
    "/boot/initrd.img-6.1.0-9-amd64": (b"old", 0o644),
    "/boot/vmlinuz-6.1.0-10-amd64": (b"kernel", 0o644),
    "/boot/initrd.img-6.1.0-10-amd64": (b"initrd", 0o600),
    "/boot/grub/grub.cfg": (b"", 0o644),
    "/etc/default/grub": (
        b'GRUB_CMDLINE_LINUX="net.ifnames=0 console=tty0 console=ttyS0"\n',
        0o644,
    ),
    "/usr/sbin/ifup": (b"", 0o755),
    "/usr/lib/systemd/systemd-networkd": (b"", 0o755),
}


@pytest.mark.parametrize(
    ("why", "names", "version"),
    [
        ("numbers count as numbers", ["vmlinuz-6.9", "initrd.img-6.9", "vmlinuz-6.10", "initrd.img-6.10"], "6.10"),
        ("as Fedora calls them", ["vmlinuz-6.1.fc40", "initramfs-6.1.fc40.img"], "6.1.fc40"),
        ("a rescue kernel is none", ["vmlinuz-0-rescue-9f", "initramfs-0-rescue-9f.img", "vmlinuz-6", "initrd-6"], "6"),
        ("as Arch calls them", ["vmlinuz-linux", "initramfs-linux.img", "initramfs-linux-fallback.img"], "linux"),
        ("one without an initrd does not boot", ["vmlinuz-7", "vmlinuz-6", "initrd.img-6", "config-6"], "6"),
    ],
)  # fmt: skip
def test_the_newest_kernel_that_boots(why, names, version):
    assert foreign.boot(names).version == version


def test_without_a_kernel_nothing_boots_and_what_is_there_is_told():
    with pytest.raises(
        WorkFailed, match="no kernel with an initrd in /boot; there is: efi, vmlinuz-6"
    ):
        foreign.boot(["vmlinuz-6", "efi"])


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("/dev/vda1", "root=/dev/vda1"),
        ("/dev/fedora/root", "root=UUID=1234-abcd"),
        ("btrfsvol:/dev/vda4/root", "root=/dev/vda4 rootflags=subvol=root"),
    ],
)
def test_the_root_is_named_as_its_guest_finds_it(device, words):
    assert foreign.root(replace(DEBIAN, mounts=(("/", device),))) == words


def test_who_configures_the_network_is_seen_from_what_is_there():
    inside = FakeInterior(files=dict(FILES))
    assert foreign.network(inside) == "ifupdown"
    inside.files["/usr/sbin/netplan"] = b"", 0o755
    assert foreign.network(inside) == "netplan"
    del inside.files["/usr/sbin/netplan"], inside.files["/usr/sbin/ifup"]
    assert foreign.network(inside) == "networkd"
    assert foreign.network(FakeInterior()) == ""


def opening(inside):
    """An opener of disks in which everything is `inside`; what it opened is its list."""
    opened = []

    @contextlib.contextmanager
    def open_(disk):
        opened.append(disk.read_bytes()[:5])
        yield inside

    return open_, opened


def adopted(tmp_path, inside, **more):
    file = tmp_path / "disk.raw"
    if not file.exists():
        file.write_bytes(b"bytes" + bytes(1 << 20))
    open_, opened = opening(inside)
    made, fresh = adopt.adopt(
        file, more.pop("form", "raw"), more.pop("name", "mine"), more.pop("version", None),
        more.pop("cmdline", None), Catalog(tmp_path / "images"), open_, NOW, lambda _: None,
    )  # fmt: skip
    assert not more and opened == ([b"bytes"] if fresh else [])
    return made, fresh


@pytest.mark.process
def test_an_imported_disk_is_whole_in_the_catalog(tmp_path):
    inside = FakeInterior((DEBIAN,), dict(FILES))
    made, fresh = adopted(tmp_path, inside)
    assert fresh and inside.trimmed and inside.entered == DEBIAN.mounts
    assert (made.name, made.version, made.kernel) == ("mine", "12.4", "6.1.0-10-amd64")
    assert made.cmdline == "root=/dev/vda1 net.ifnames=0"
    assert (made.contextualization, made.network) == ("cloud-init", "ifupdown")
    assert made.origin is not None and made.origin.how == "import" and made.origin.form == "raw"
    folder = Catalog(tmp_path / "images").folder(made)
    assert (folder / "vmlinuz").read_bytes() == b"kernel"
    assert (folder / "initrd").read_bytes() == b"initrd"
    assert Catalog(tmp_path / "images").get("mine") == made
    assert adopted(tmp_path, inside) == (made, False), "the same file again"
    assert adopted(tmp_path, inside, cmdline="quiet")[0].cmdline == "root=/dev/vda1 quiet"


@pytest.mark.process
def test_where_only_ifupdown_reads_what_is_written_the_first_card_is_eth0(tmp_path):
    bare = replace(DEBIAN, packages=())
    made, _ = adopted(tmp_path, FakeInterior((bare,), dict(FILES)), cmdline="quiet")
    assert (made.contextualization, made.cmdline) == ("none", "root=/dev/vda1 quiet net.ifnames=0")


@pytest.mark.process
@pytest.mark.parametrize(
    ("found", "said"),
    [((), "disk.raw has no system on it"), ((DEBIAN, DEBIAN), "disk.raw has 2 systems: Debian")],
)
def test_a_disk_has_one_system(tmp_path, found, said):
    with pytest.raises(WorkFailed, match=said):
        adopted(tmp_path, FakeInterior(found, dict(FILES)))
    assert Catalog(tmp_path / "images").images() == []


@pytest.mark.process
@pytest.mark.parametrize(
    ("why", "script", "form", "said"),
    [
        ("a backing file could be any file of this machine",
         "qemu-img create -q -f raw base 1M; qemu-img create -q -f qcow2 -F raw -b base disk.raw", None,
         "is not alone: it stands on base"),
        ("a VMDK names its extents",
         "qemu-img create -q -f vmdk -o subformat=monolithicFlat disk.raw 1M", "vmdk",
         "is not alone: it stands on "),
        ("data beside it", "qemu-img create -q -f qcow2 -o data_file=other disk.raw 1M", "qcow2",
         "is not alone: it stands on other"),
        ("not a format of ours", "qemu-img create -q -f vdi disk.raw 1M", None, "has the format vdi"),
        ("not what it is said to be", "qemu-img create -q -f raw disk.raw 1M", "qcow2",
         "is no qcow2: Image is not in"),
        ("no such format", "qemu-img create -q -f raw disk.raw 1M", "iso", "unknown format 'iso'"),
        ("no such file", "true", None, "there is no file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_disk_of_its_own_is_refused(tmp_path, why, script, form, said):
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    open_, opened = opening(FakeInterior())
    with pytest.raises(InputError) as caught:
        adopt.adopt(
            tmp_path / "disk.raw",
            form,
            "x",
            None,
            None,
            Catalog(tmp_path / "images"),
            open_,
            NOW,
            print,
        )
    assert said in explain(caught.value) and opened == []


@pytest.mark.process
def test_a_changed_image_says_whose_child_it_is(tmp_path):
    parent, _ = adopted(tmp_path, FakeInterior((DEBIAN,), dict(FILES)))
    catalog, inside = Catalog(tmp_path / "images"), FakeInterior(files={"/etc/gone": (b"", 0o644)})
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "key").chmod(0o600)
    acts = [
        Copy(tmp_path / "key", "/etc/key"),
        Put("/etc/motd", "hi\n"),
        Remove("/etc/gone"),
        Command("ldconfig"),
    ]
    open_, opened = opening(inside)
    args = (parent, acts, "child", "2", catalog, open_, NOW, lambda _: None)
    made, fresh = customize.customize(*args)
    assert (
        fresh and inside.entered == parent.mounts and inside.trimmed and inside.ran == ["ldconfig"]
    )
    assert inside.files == {"/etc/key": (b"key", 0o600), "/etc/motd": (b"hi\n", 0o644)}
    assert made.origin == Origin("customize", parent.id, acts=tuple(map(customize.told, acts)))
    assert (made.packages, made.cmdline, made.network) == (
        parent.packages,
        parent.cmdline,
        parent.network,
    )
    assert customize.customize(*args) == (made, False) and opened == [b"bytes"]
    assert dict(made.digests).keys() == {"disk.raw", "vmlinuz", "initrd"}
    (tmp_path / "key").write_bytes(b"other")
    assert customize.told(acts[0]) not in made.origin.acts, "another file is another act"


def test_a_source_that_is_not_there_is_told_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match="there is no file or folder"):
        customize.told(Copy(tmp_path / "nothing", "/etc/x"))


def test_what_the_command_line_takes_apart():
    assert _plain(adopt.Path("/x/Debian_12-generic.amd64.qcow2")) == "debian-12-generic"
    assert _pairs(["a:b:/c", "d:/e"], ":", "--copy", "FILE:PATH") == [("a:b", "/c"), ("d", "/e")]
    assert _pairs(["/a=b=c"], "=", "--write", "PATH=TEXT") == [("/a", "b=c")]
    with pytest.raises(InputError, match="'x' is not PATH=TEXT"):
        _pairs(["x", "/a=1"], "=", "--write", "PATH=TEXT")


def test_an_entry_is_what_it_is_whenever_it_changed():
    assert Entry("a", "file", 0o644, 0, 0, 1, mtime=1) == Entry(
        "a", "file", 0o644, 0, 0, 1, mtime=2
    )


def test_an_image_that_no_recipe_made_says_so_where_its_layers_or_papers_are_wanted(
    tmp_path, monkeypatch
):
    catalog = Catalog(tmp_path / "images")
    mine = replace(IMAGE, name="mine", layers=(), origin=Origin("import", "9c" * 32))

    def make(into):
        (into / "manifest.json").write_text(mine.to_json())
        return mine

    catalog.add(make)
    with pytest.raises(
        InputError, match="mine 1f1f1f1f1f1f was not built from layers: there is no tar of it"
    ):
        export(mine, catalog.folder(mine), LayerStore(tmp_path / "layers"), "tar", tmp_path / "out")
    monkeypatch.setenv("PHX_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"mine 1f1f1f1f1f1f has no provenance\.json: no recipe made it"
    ):
        provenance("mine")
