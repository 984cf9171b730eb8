"""Locks, as apt really makes them: archives with their keys, snapshots, what is renewed in part, what is gone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import InputError, WorkFailed, explain
from builder.language import recipe
from builder.packages import facts, pip
from builder.packages.apt import Apt
from builder.packages.lock import difference
from builder.packages.renew import renew
from tests.invented import deb
from tests.test_recipe import ROOT
from tests.test_recipe import library as library_of
from tests.vm.archive import Archive, Signer
from tests.vm.conftest import PHX, Phx
from tests.vm.test_build import debugfs, folder

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys") / "ours")


def package(name: str, version: str = "1", depends: str = "") -> tuple[str, str, bytes]:
    fields = f"Depends: {depends}\n" if depends else ""
    if name in ("base-files", "apt"):
        fields += "Essential: yes\nPriority: required\n"
    return name, version, deb(name, version, fields)


SYSTEM = (package("base-files"), package("apt"), package("linux-image-cloud-amd64"))


class Site:
    """A machine whose only mirror is a small one; asks it for the lock of one recipe."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self.root, self.mirror, self.vendor = (
            root,
            Archive(root / "m", signer),
            Archive(root / "v", signer),
        )
        (root / "key.asc").write_text(signer.public)
        stanza = f"Types: deb\nURIs: {self.mirror.uri}\nSuites: stable\nComponents: main\n"
        stanza += f"Signed-By: {root}/key.asc\n"
        self.apt = Apt(root / "apt", root / "packages", stanza, root / "log")
        self.mirror.write(*SYSTEM)

    def fresh(self) -> Apt:
        """As another run of phx: nothing was asked yet."""
        return Apt(self.apt.state, self.apt.archives, self.apt.sources, self.apt.log)

    def forget(self) -> None:
        """apt keeps lists that were good, and takes none that are older."""
        shutil.rmtree(self.apt.state)

    def recipe(self, more: str, **files: str) -> recipe.Flat:
        texts = {f"base/{name.replace('_', '.')}": text for name, text in files.items()}
        made = library_of(self.root, {"base/recipe.yaml": ROOT + more, **texts})
        return recipe.load(made / "base", made, {})

    def lock(self, flat: recipe.Flat) -> facts.Facts:
        return facts.resolve(flat, self.fresh(), lambda _: None)

    def refused(self, flat: recipe.Flat) -> str:
        with pytest.raises(WorkFailed) as caught:
            self.lock(flat)
        return explain(caught.value).replace(str(self.root), "TMP")


@pytest.fixture
def site(tmp_path: Path, signer: Signer) -> Site:
    return Site(tmp_path, signer)


def versions(found: facts.Facts) -> dict[str, str]:
    return {p.name: p.version for part in found.packages for p in part}


SOURCE = (
    "sources:\n  - {name: vendor, uri: '%s', suite: stable, key: key.asc%s}\npackages: [tool]\n"
)


def test_an_archive_is_taken_with_its_key_only(site: Site, signer: Signer, tmp_path: Path) -> None:
    site.vendor.write(package("tool", "3", "lib"), package("lib", "7"))
    text = SOURCE % (site.vendor.uri, "")
    flat = site.recipe(text, key_asc=signer.public)
    assert versions(site.lock(flat)) == {
        "apt": "1", "base-files": "1", "lib": "7", "linux-image-cloud-amd64": "1", "tool": "3",
    }  # fmt: skip
    inline = "".join(f"      {line}\n" for line in signer.public.splitlines())
    block = f"sources:\n  - name: vendor\n    uri: {site.vendor.uri}\n    suite: stable\n    key_text: |\n{inline}"
    assert versions(site.lock(site.recipe(f"{block}packages: [tool]\n")))["tool"] == "3"

    where = "TMP/base/recipe.yaml:8: sources[0]: the archive 'vendor'"
    wrong = "does not carry the signature of its key, or not the signed hashes"
    stranger = Signer(tmp_path / "stranger")
    said = site.refused(site.recipe(text, key_asc=stranger.public))
    assert f"{where} {wrong}" in said
    assert "gpg --show-keys FILE tells whose key it is" in said

    flat = site.recipe(text, key_asc=signer.public)
    site.vendor.index.write_text(site.vendor.index.read_text().replace("Version: 3", "Version: 4"))
    site.forget()
    assert f"{where} {wrong}" in site.refused(flat)
    site.vendor.sign()
    (site.vendor.root / "dists/stable/InRelease").write_text("Suite: stable\n")
    assert f"{where} " in site.refused(flat)
    shutil.rmtree(site.vendor.root)
    assert f"{where} has no suite stable" in site.refused(flat)


def test_a_package_that_is_not_what_its_archive_signed_is_refused(
    site: Site, signer: Signer
) -> None:
    site.vendor.write(package("tool"))
    flat = site.recipe(SOURCE % (site.vendor.uri, ""), key_asc=signer.public)
    locked = site.lock(flat)
    (site.vendor.root / "tool_1_all.deb").write_bytes(deb("tool", "1", "Evil: yes\n"))
    apt = site.fresh().over(flat.archives())
    with pytest.raises(WorkFailed, match="does not carry the signature of its key"):
        apt.fetch([p for p in locked.packages[0] if p.name == "tool"], lambda _: None)
    assert not list(site.apt.archives.glob("tool_*"))


def test_a_snapshot_may_have_run_out_where_somebody_says_so(site: Site, signer: Signer) -> None:
    long_ago = time.time() - 1e7
    site.vendor.write(package("tool"), until=long_ago)
    said = site.refused(site.recipe(SOURCE % (site.vendor.uri, ""), key_asc=signer.public))
    assert "the archive 'vendor' has a Release file that has run out (Valid-Until)" in said
    assert "hint: where it is a snapshot that is right: say snapshot: true" in said
    flat = site.recipe(SOURCE % (site.vendor.uri, ", snapshot: true"), key_asc=signer.public)
    assert versions(site.lock(flat))["tool"] == "1"

    # The machine's own mirror: as its apt configuration says.
    site.mirror.write(*SYSTEM, until=long_ago)
    flat = site.recipe("packages: []\n")
    assert "Check-Valid-Until: no in this machine's apt sources" in site.refused(flat)
    site.apt = Apt(
        site.apt.state,
        site.apt.archives,
        site.apt.sources + "Check-Valid-Until: no\n",
        site.apt.log,
    )
    site.forget()
    found = site.lock(flat)
    assert abs(found.epoch - (long_ago - 9)) < 2, "the date is the snapshot's"


def test_a_childs_archive_does_not_count_for_its_parent(site: Site, signer: Signer) -> None:
    site.mirror.write(*SYSTEM, package("lib", "1"))
    site.vendor.write(package("lib", "2"), package("tool", "1", "lib"))
    files = {
        "base/recipe.yaml": ROOT + "packages: [lib]\n",
        "web/recipe.yaml": "name: web\nversion: '1'\nsummary: a child\nfrom: base\n"
        + SOURCE % (site.vendor.uri, ""),
        "web/key.asc": signer.public,
    }
    made = library_of(site.root, files)
    web = site.lock(recipe.load(made / "web", made, {}))
    base = site.lock(recipe.load(made / "base", made, {}))
    assert web.packages[0] == base.packages[0]
    assert web.epoch == base.epoch
    assert [(p.name, p.version) for p in web.packages[1]] == [("tool", "1")]


def test_only_what_is_named_moves_and_what_it_needs(site: Site) -> None:
    """alpha needs beta; gamma and its own delta stay, although the mirror has neither of them any more."""

    def offered(n: int, *more: tuple[str, str, bytes]) -> None:
        site.mirror.write(
            *SYSTEM, package("alpha", f"{n}", f"beta (>= {n}), base-files"), package("beta", f"{n}"),
            package("gamma", f"{n}", f"delta (= {n})"), package("delta", f"{n}"), *more,
        )  # fmt: skip

    offered(1)
    flat = site.recipe("packages: [alpha, gamma]\n")
    old = site.lock(flat)
    python = pip.Pip("bookworm", site.root / "files", site.root / "log")
    apt = site.fresh()
    with apt.alone(lambda _: None):
        apt.update()
    apt.fetch([p for part in old.packages for p in part], lambda _: None)

    def moved(flat: recipe.Flat, *names: str) -> list[tuple[str, str, str]]:
        new = renew(flat, old, names, site.fresh(), python, lambda _: None)
        assert new.epoch == old.epoch, "its layers below stay"
        return difference(old, new)

    offered(2, package("new", "5", "beta"))
    assert moved(flat, "alpha") == [("alpha", "1", "2"), ("beta", "1", "2")]
    assert moved(flat, "beta") == [("beta", "1", "2")]
    assert moved(flat, "delta") == [("delta", "1", "2"), ("gamma", "1", "2")]
    assert moved(flat, "base-files") == []
    # What the recipe asks for by now comes along, what it does not goes.
    other = site.recipe("packages: [alpha, new]\n")
    assert moved(other, "new") == [("delta", "1", "-"), ("gamma", "1", "-"), ("new", "-", "5")]
    with pytest.raises(InputError) as caught:
        moved(flat, "alhpa")
    assert explain(caught.value) == (
        "error: --update alhpa: no such package in the lock\n  hint: did you mean 'alpha'?"
    )
    assert not (site.apt.state / "kept").exists()
    assert not list((site.apt.state / "over").iterdir())


def test_a_lock_with_an_archive_is_renewed_in_part_and_built_with_no_mirror_at_all(
    library: Callable[..., Phx], signer: Signer, tmp_path: Path
) -> None:
    vendor, stamp = Archive(tmp_path / "vendor", signer), str(time.time())
    here = {"./usr/share/vendor/stamp": stamp}
    vendor.write(
        ("vendor-tool", "1", deb("vendor-tool", "1", files=here)), package("vendor-lib", "1")
    )
    text = f"""from: base
sources: [{{name: vendor, uri: '{vendor.uri}', suite: stable, key: vendor.asc}}]
packages: [vendor-tool, vendor-lib]
"""
    phx = library(vended=text)
    place = (phx.recipes or Path()) / "vended"
    (place / "vendor.asc").write_text(signer.public)
    phx.run("lock", place)
    phx.run("build", place)
    disk = folder(phx, "vended") / "disk.raw"
    assert debugfs(disk, "cat /usr/share/vendor/stamp") == stamp
    assert "vendor" not in debugfs(disk, "ls /etc/apt/sources.list.d") + debugfs(
        disk, "ls /etc/apt/keyrings"
    )
    locked = (place / "recipe.lock").read_text()

    vendor.write(
        ("vendor-tool", "2", deb("vendor-tool", "2", files=here)), package("vendor-lib", "2"),
    )  # fmt: skip
    said = phx.run("lock", place, "--update", "vendor-tool").stdout.splitlines()
    assert [row.split() for row in said[:2]] == [
        ["PACKAGE", "WAS", "IS"],
        ["vendor-tool", "1", "2"],
    ]
    assert "1 changed" in said[2]
    (place / "recipe.lock").write_text(locked)

    # Layers gone, archive gone, no mirror: the lock and the package cache are enough.
    before = phx.json("image", "show", "vended")
    phx.run("image", "rm", "vended")
    for layer in before["layers"][4:]:  # type: ignore[call-overload,index]
        shutil.rmtree(phx.home / "layers" / layer[:20])
    shutil.rmtree(vendor.root)
    script = f"""cp -a /etc/apt {tmp_path}/apt; rm -rf {tmp_path}/apt/sources.list.d/*
mount --bind {tmp_path}/apt /etc/apt
echo 'deb http://127.0.0.1:9/debian bookworm main' > /etc/apt/sources.list
exec {PHX} build {place}"""
    env = {**phx.env, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-euc", script],
        env={**os.environ, **env},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"install vendor-tool, vendor-lib", done.stderr)
    assert phx.json("image", "show", "vended")["id"] == before["id"]  # type: ignore[call-overload,index]
