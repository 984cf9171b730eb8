"""libguestfs for real; images of ours read from their layers; a disk of others imported and changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.errors import TimedOut, WorkFailed
from builder.images.catalog import Catalog
from builder.images.inside.guest import Libguestfs
from builder.images.inside.interior import Interior, Readable
from builder.images.inside.layered import Layered
from builder.images.inside.supermin import Machine, machine
from builder.images.manifest import WHOLE
from builder.layers import LayerStore
from tests.contract.test_guest import FILES, InteriorContract, ReadableContract
from tests.vm.conftest import Phx

pytestmark = pytest.mark.vm


@pytest.fixture(scope="session")
def supermin(image) -> Machine:
    return machine(image.home, Catalog(image.home / "images"), print)


def fill(top: Path) -> Path:
    for path, (data, mode) in FILES.items():
        place = top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str):
            place.symlink_to(data)
        else:
            place.write_bytes(data)
            place.chmod(mode)
    return top


@pytest.fixture(scope="session")
def disk(tmp_path_factory) -> Path:
    """An ext4 disk that holds FILES."""
    top = tmp_path_factory.mktemp("disk")
    argv = ["mke2fs", "-q", "-t", "ext4", "-d", fill(top / "tree"), top / "disk.raw", "64M"]
    subprocess.run(argv, check=True)
    return top / "disk.raw"


@pytest.fixture(scope="session")
def opened(disk, supermin):
    with Libguestfs(disk, "raw", supermin, write=True) as interior:
        interior.enter(WHOLE)
        yield interior


class TestLibguestfs(InteriorContract):
    @pytest.fixture
    def interior(self, opened) -> Interior:
        return opened

    def test_there_is_no_system_on_it(self, opened):
        with pytest.raises(WorkFailed, match="a command in the image failed"):
            opened.run("true")

    def test_freed_blocks_become_holes(self, opened, disk):
        opened.write("/srv/large", b"x" * (16 << 20), 0o644)
        opened.trim()  # which writes what is due
        large = disk.stat().st_blocks
        opened.remove("/srv/large")
        opened.trim()
        assert large - disk.stat().st_blocks > 2 * (12 << 10), "12 of 16 MiB at least"


@pytest.fixture(scope="module")
def layered(image, tmp_path_factory):
    """FILES on top of base's layers."""
    home, tree = image.home, fill(tmp_path_factory.mktemp("layered"))
    base = next(m for m in Catalog(home / "images").images() if m.name == "base")
    with LayerStore(home / "layers").begin(base.layers) as chamber:
        chamber.outside(f'cp -a {tree}/etc/. "$m/etc/"', timeout=60)
        yield Layered(chamber)


class TestLayered(ReadableContract):
    @pytest.fixture
    def interior(self, layered) -> Readable:
        return layered


def test_a_machine_is_made_once(supermin, image):
    again = machine(image.home, Catalog(image.home / "images"), pytest.fail)
    assert again == supermin


def test_what_does_not_end_in_time_is_stopped(disk, supermin):
    with pytest.raises(TimedOut, match="did not end in time; its machine last said: "):
        Libguestfs(disk, "raw", supermin, deadline=1)


def test_what_is_no_disk_is_told(tmp_path, supermin):
    with pytest.raises(WorkFailed, match="nowhere cannot be opened: No such file"):
        Libguestfs(tmp_path / "nowhere", "raw", supermin)


# --- images of ours


def test_a_file_of_an_image_of_ours_is_read_from_its_layers(image, tmp_path):
    assert "count-primes" in image.run("image", "ls", "worker", "/usr/local/bin").stdout
    done = image.run("image", "cat", "worker", "/etc/os-release")
    assert 'VERSION_ID="12"' in done.stdout and "libguestfs" not in done.stderr
    image.run("image", "cp", "worker", "/etc/systemd", tmp_path / "systemd")
    assert (tmp_path / "systemd/journald.conf").is_file()
    image.run("image", "cp", "worker", "/etc/systemd", tmp_path / "systemd/journald.conf", status=2)
    image.run("image", "cat", "worker", "etc/os-release", status=2)


# --- a disk of others


@pytest.fixture(scope="session")
def disk_of_others(image, tmp_path_factory) -> Path:
    """A machine as others have it: one partition, GRUB's file, its own initrd, and no agent of ours. qcow2."""
    top = tmp_path_factory.mktemp("others")
    base = next(m for m in Catalog(image.home / "images").images() if m.name == "base")
    folder = Catalog(image.home / "images").folder(base)
    shutil.copyfile(folder / "disk.raw", top / "root.raw")
    (top / "grub").write_text('GRUB_CMDLINE_LINUX_DEFAULT="quiet net.ifnames=0"\n')
    script = f"""rm /usr/lib/philoxenia/agent.py
rm /etc/systemd/system/philoxenia-agent.service
rm /etc/systemd/system/sysinit.target.wants/philoxenia-agent.service
write {folder}/initrd /boot/initrd.img-{base.kernel}
write {top}/grub /etc/default/grub
"""
    subprocess.run(["debugfs", "-w", "-f", "-", top / "root.raw"], input=script, text=True, check=True)  # fmt: skip
    subprocess.run(f"""set -e; cd {top}
truncate -s $(( $(stat -c %s root.raw) + 2 * 1048576 )) disk.raw
echo 2048,,83,* | /usr/sbin/sfdisk -q disk.raw
dd if=root.raw of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
qemu-img convert -O qcow2 disk.raw others.qcow2; rm *.raw""", shell=True, check=True)  # fmt: skip
    return top / "others.qcow2"


@pytest.fixture(scope="session")
def imported(image, disk_of_others) -> Phx:
    image.run("image", "import", disk_of_others, "--name", "others")
    yield image
    image.run("image", "rm", "others", status=None)


def test_an_imported_disk_is_an_image_that_says_what_it_is(imported):
    shown = imported.json("image", "show", "others")
    base = imported.json("image", "show", "base")
    assert (shown["contextualization"], shown["network"]) == ("none", "networkd")
    assert shown["version"].startswith("12")
    assert shown["cmdline"] == "root=/dev/vda1 net.ifnames=0" and shown["kernel"] == base["kernel"]
    assert len(shown["packages"]) == len(base["packages"])
    assert (shown["origin"]["how"], shown["origin"]["file"]) == ("import", "others.qcow2")
    assert shown["stored"] < 1.2 * base["stored"], "it is sparse"


def test_the_same_disk_is_imported_once(imported, disk_of_others):
    again = json.loads(
        imported.run("image", "import", disk_of_others, "--name", "others", "--json").stdout
    )
    assert not again["made"]


def test_an_imported_image_is_changed_into_another(imported, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("copied\n")
    acts = ["--copy", f"{tmp_path}/folder:/srv/folder", "--write", "/etc/motd=hello",
            "--remove", "/etc/default/grub", "--run", "useradd -m ann; cat /etc/motd > /home/ann/motd"]  # fmt: skip
    told = json.loads(
        imported.run("image", "customize", "others", "--name", "changed", *acts, "--json").stdout
    )
    try:
        assert imported.run("image", "cat", "changed", "/home/ann/motd").stdout == "hello\n"
        shown = imported.json("image", "show", "changed")
        assert (
            shown["origin"]["of"]
            == told["parent"]
            == imported.json("image", "show", "others")["id"]
        )
        assert shown["origin"]["acts"][1:] == [
            "write /etc/motd (5891b5b522d5df08)",
            "remove /etc/default/grub",
            "run useradd -m ann; cat /etc/motd > /home/ann/motd",
        ]
        again = imported.run("image", "customize", "others", "--name", "changed", *acts, "--json")
        assert json.loads(again.stdout) == {**told, "made": False}
    finally:
        imported.run("image", "rm", "changed")


def names(phx: Phx) -> list[tuple[str, str]]:
    return [(m["name"], m["id"]) for m in phx.json("image", "ls")]  # type: ignore[attr-defined]


def test_what_fails_leaves_no_image(imported):
    before = names(imported)
    failed = imported.run(
        "image", "customize", "others", "--name", "broken", "--run", "ls /nowhere", status=1
    )
    assert "a command in the image failed" in failed.stderr and "/nowhere" in failed.stderr
    assert names(imported) == before


ROLE = """  {role}:
    image: {image}
    cpu: {{guarantee: 0.2, limit: 1}}
    memory: 256M
    network: {{guarantee: 1Mbit, limit: 100Mbit}}
"""


def test_a_node_without_agent_and_cloud_init_knows_itself_and_its_peers(
    imported, sandbox, tmp_path
):
    roles = ROLE.format(role="plain", image="others") + ROLE.format(role="goer", image="worker")
    file = tmp_path / "cluster.yaml"
    file.write_text(f"cluster: offline\nroles:\n{roles}    ssh_to: [plain]\n")
    try:
        up = imported.run("up", file, "--host", sandbox)
        assert "plain-1: its context is written into its disk" in up.stderr
        assert {name: row["stage"] for name, row in imported.nodes().items()} == {
            "plain-1": "ready",
            "goer-1": "ready",
        }
        script = "hostname; getent hosts goer-1; ip -4 -o addr show scope global; ls /etc/ssh; cat /etc/machine-id"
        told = imported.run("ssh", "plain-1", "--", script).stdout
        row = imported.nodes()["plain-1"]
        assert told.startswith("plain-1\n") and f"inet {row['address']}/" in told
        assert "goer-1.offline" in told and "ssh_host_rsa_key" not in told
        # By name, with a verified key, from another node of the cluster.
        assert imported.run("ssh", "goer-1", "--", "ssh plain-1 hostname").stdout == "plain-1\n"
        again = imported.run("up", file, "--host", sandbox)
        assert "no changes" in again.stdout
    finally:
        imported.run("down", "offline", status=None)
