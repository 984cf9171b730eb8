"""What comes out of a real build: documents that their own libraries accept, formats that their own tools accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.images.disk import sha256_of
from tests.vm.conftest import PHX, REPO, Phx

pytestmark = pytest.mark.root


def test_the_documents_are_valid_by_their_own_libraries(image: Phx, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    told = image.json("image", "show", "base")
    assert isinstance(told, dict)
    packages = {(p["name"], p["version"]) for p in told["packages"]}
    spdx = tmp_path / "base.spdx.json"
    image.run("image", "sbom", "base", "-o", spdx)
    document = parse_file(str(spdx))
    assert validate_full_spdx_document(document) == []
    assert {(p.name, p.version) for p in document.packages} >= packages
    assert image.run("image", "sbom", "base").stdout == spdx.read_text()

    text = image.run("image", "sbom", "base", "--format", "cyclonedx").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    assert {(c["name"], c["version"]) for c in components} >= packages
    licensed = [c for c in components if c.get("licenses")]
    assert len(licensed) > len(components) * 0.7, "most of Debian's copyright files are DEP-5"

    provenance = json.loads(image.run("image", "provenance", "base").stdout)
    assert {s["name"]: s["digest"]["sha256"] for s in provenance["subject"]} == dict(
        told["digests"]
    )
    inputs = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert len(inputs) >= len(packages)


CONTAINERS = ("raw", "qcow2", "vmdk", "vhd")
TREES = ("tar", "oci", "squashfs", "erofs")


@pytest.fixture(scope="module")
def exported(image: Phx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base in every format, as base.FORMAT."""
    folder = tmp_path_factory.mktemp("exported")

    def write(form: str) -> None:
        image.run("image", "export", "base", folder / f"base.{form}", "--format", form)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (*CONTAINERS, *TREES)))
    yield folder
    shutil.rmtree(folder)


def said(*argv: object) -> str:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_container_holds_the_same_disk(exported: Path) -> None:
    for form in CONTAINERS[1:]:
        kind = {"vhd": "vpc"}.get(form, form)
        argv = ("qemu-img", "compare", "-F", kind, "-f", "raw")
        assert "Images are identical" in said(
            *argv, exported / "base.raw", exported / f"base.{form}"
        )


def test_a_tar_is_sorted(exported: Path) -> None:
    names = said("tar", "-tf", exported / "base.tar").splitlines()
    assert {"./etc/debian_version", "./usr/lib/philoxenia/agent.py", "./bin"} <= set(names)
    assert names == sorted(names, key=lambda n: n.rstrip("/").split("/"))


def test_a_container_image_is_one_by_others_tools(exported: Path, tmp_path: Path) -> None:
    told = json.loads(said("skopeo", "inspect", f"oci-archive:{exported / 'base.oci'}"))
    assert told["Labels"]["org.opencontainers.image.title"] == "base"
    assert (told["Architecture"], told["Os"], len(told["Layers"])) == ("amd64", "linux", 1)
    # A copy checks every digest.
    said("skopeo", "copy", "-q", f"oci-archive:{exported / 'base.oci'}", f"oci:{tmp_path}/layout:1")
    blobs = tmp_path / "layout/blobs/sha256"
    [layer] = [path for path in blobs.iterdir() if path.stat().st_size > 1 << 20]
    plain = subprocess.run(["sh", "-c", f"gzip -dc {layer} | cmp - {exported}/base.tar"])
    assert plain.returncode == 0, "the layer is the tar"


@pytest.mark.parametrize("form", ["squashfs", "erofs"])
def test_a_read_only_filesystem_is_whole(exported: Path, form: str, tmp_path: Path) -> None:
    with tarfile.open(exported / "base.tar") as archive:
        listed = {m.name.removeprefix("./"): m for m in archive if m.name != "."}
    if form == "erofs":
        said("fsck.erofs", exported / "base.erofs")
        assert len(listed) > 5000
        return
    found = {
        line.split(None, 5)[5].partition(" -> ")[0].removeprefix("squashfs-root").lstrip("/"): line.split()[1]
        for line in said("unsquashfs", "-lln", exported / "base.squashfs").splitlines()
        if line
    }  # fmt: skip
    assert {name: f"{m.uid}/{m.gid}" for name, m in listed.items()}.items() <= found.items()


def test_what_cannot_be_exported_says_why(image: Phx, exported: Path, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        return image.run("image", "export", "base", *words, status=2).stderr

    assert "is there already" in refused(exported / "base.tar", "--format", "tar")
    assert "did you mean 'qcow2'?" in refused(tmp_path / "x", "--format", "qcow")
    assert "xfs is not written: mkfs.xfs fills" in refused(tmp_path / "x", "--format", "xfs")
    assert "there is no folder" in refused(tmp_path / "none" / "x")
    assert list(tmp_path.iterdir()) == []


LATER = """
fake=$(ls /usr/lib/*/faketime/libfaketime.so.1)
mkdir -p {home}/layers {home}/real
mount -t tmpfs layers {home}/layers
cat > {home}/later <<END
#!/bin/sh
export LD_PRELOAD=$fake FAKETIME=+400d NO_FAKE_STAT=1
exec {home}/real/\\${{0##*/}} "\\$@"
END
chmod 755 {home}/later
for tool in {tools}; do cp -L $(command -v $tool) {home}/real/$tool; done
for tool in {tools}; do mount --bind {home}/later $(readlink -f $(command -v $tool)); done
[ $(unshare date +%Y) -gt $(date +%Y) ]
{phx} build base >&2
tell() {{ printf '%s ' $1; sha256sum < {home}/$1; rm {home}/$1; }}
for form in {forms}; do {phx} image export base {home}/$form --format $form >&2; tell $form; done
{phx} image export base {home}/boots --bootable >&2; tell boots
{phx} image sbom base > {home}/spdx; tell spdx
{phx} image provenance base > {home}/provenance; tell provenance
"""
"""A second build in another folder, 400 days later for every program that we start (steps themselves have another time
of day only: nothing of this machine reaches into their tree), with layers on a tmpfs, which lists the newest first.
"""
TOOLS = "unshare qemu-img mkfs.fat mtools mmd mcopy sfdisk grub-mkimage"


def test_every_format_is_the_same_bytes_elsewhere_and_later(
    image: Phx, exported: Path, tmp_path: Path
) -> None:
    home = tmp_path / "elsewhere"
    # The same questions get the same answers, and no second download.
    for kept in ("packages", "locks"):
        shutil.copytree(image.home / kept, home / kept)
    script = LATER.format(home=home, tools=TOOLS, forms=" ".join((*CONTAINERS, *TREES)), phx=PHX)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script], env=Phx(home).env, cwd=REPO,
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    later = dict(line.split()[:2] for line in done.stdout.splitlines())
    shutil.rmtree(home)
    image.run("image", "export", "base", exported / "base.boots", "--bootable")
    (exported / "base.spdx").write_text(image.run("image", "sbom", "base").stdout)
    (exported / "base.provenance").write_text(image.run("image", "provenance", "base").stdout)
    assert {f"base.{name}": digest for name, digest in later.items()} == {
        path.name: sha256_of(path) for path in exported.iterdir()
    }
    assert set(later) == {*CONTAINERS, *TREES, "boots", "spdx", "provenance"}
    told = image.json("image", "show", "base")
    assert later["raw"] == dict(told["digests"])["disk.raw"]  # type: ignore[call-overload,index]


def test_a_build_that_chance_decides_is_told_with_its_step(library: Callable[..., Phx]) -> None:
    phx = library(
        chance="from: base\nrun:\n  - {name: a stamp, script: 'od -An -N8 -tx1 /dev/urandom > /stamp'}\n"
    )
    done = phx.run("build", "chance", "--check", status=1)
    assert re.search(
        r"^1 paths differ:\n  /stamp: content \(step \d run: a stamp\)$", done.stdout, re.M
    )
    assert re.search(r"^-( \w\w){8}\n\+( \w\w){8}$", done.stdout, re.M), "diffoscope shows how"
    assert "error: built again, disk.raw differ" in done.stderr
    shutil.rmtree(phx.home / "check")
