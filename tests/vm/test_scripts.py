"""Packages that misbehave, really installed over base: scripts that fail, hang or ask, files that try to leave."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder import acts, assemble, line, plan
from builder.choice import Chosen
from builder.errors import WorkFailed, explain
from builder.language.flat import LocalWheel, Placed, PlacedDirectory
from builder.layers import LayerStore
from builder.packages.archive import file_name
from builder.steps import Install, Locked, LockedWheel, Pip, Script, Step, Write
from tests.invented import deb, wheel
from tests.vm.conftest import REPO, Phx
from tests.vm.test_pip import PIP

pytestmark = pytest.mark.root

Make = Callable[..., str]


@pytest.fixture
def make(image: Phx) -> Make:
    """Make steps on top of base's layers; what is said of the one that fails, or "" if none does."""
    shop = line.Line(image.home, REPO / "recipes", lambda _: None)
    flat = shop.load(Chosen("base", REPO / "recipes/base"), {})
    base = plan.plan(flat, shop.locks.facts(flat, REPO / "recipes/base")[0])
    store = LayerStore(image.home / "layers")

    def build(*more: Step) -> str:
        # Of each run its own, so that no layer of an earlier one is taken.
        steps = (*base.steps[:-1], Script("own", f": {time.time()}"), *more)
        drawn = replace(base, name="misbehaving", steps=steps)
        apt, pip = shop.locks.apt(flat), shop.locks.pip(flat.suite)
        try:
            assemble.assemble(drawn, store, shop.caches, apt, pip, lambda _: None)
        except WorkFailed as cause:
            return explain(cause)
        return ""

    return build


def package(image: Phx, name: str, data: bytes) -> Install:
    """Its file is in the cache: nobody is asked for it."""
    locked = Locked(name, "1", "all", hashlib.sha256(data).hexdigest(), len(data))
    (image.home / "packages" / file_name(locked)).write_bytes(data)
    return Install((name,), (locked,))


SCRIPTS = {
    "fails": ("postinst", "echo first; echo 'it went wrong' >&2; exit 3",
              "the postinst script of fails ended with status 3; it said last:\n    first\n    it went wrong"),
    "fails-early": ("preinst", "echo no; exit 4",
                    "the preinst script of fails-early ended with status 4; it said last:\n    no"),
    "hangs": ("postinst", "echo waiting; exec sleep 1000",
              "the postinst script of hangs said nothing for 6 s; it said last:\n    waiting"),
    "asks": ("postinst", "echo 'Which one? '; read answer; echo never",
             "the postinst script of asks ended with status 1; it said last:\n    Which one?"),
    "asks-a-terminal": ("postinst", "echo asks; read answer < /dev/tty",
                        "the postinst script of asks-a-terminal ended with status 2; it said last:"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_is_named_with_its_last_words(
    name: str, image: Phx, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for a busy machine to begin with the script.
    monkeypatch.setattr(acts, "SILENCE", 6.0 if name == "hangs" else 60.0)
    script, text, said = SCRIPTS[name]
    started = time.monotonic()
    told = make(package(image, name, deb(name, "1", scripts={script: f"#!/bin/sh -e\n{text}\n"})))
    assert f"failed: install {name}\n  because: {said}" in told
    assert "nobody answers a maintainer script" in told
    assert time.monotonic() - started < 60


LEAVING = {
    "dots": {"./../../../../../..{outside}/file": "out"},
    "absolute": {"{outside}/file": "out"},
    "link": {"./srv/out": "-> {outside}", "./srv/out/file": "out"},
    "link-up": {"./srv/up": "-> ../../../../../..{outside}", "./srv/up/file": "out"},
}


def leaving(name: str, outside: Path) -> bytes:
    files = {
        path.format(outside=outside): text.format(outside=outside)
        for path, text in LEAVING[name].items()
    }
    return deb(f"leaves-{name}", "1", files=files)


@pytest.mark.parametrize("name", LEAVING)
def test_a_package_cannot_write_outside_its_tree(
    name: str, image: Phx, make: Make, tmp_path: Path
) -> None:
    """Neither through dpkg, nor through our own unpacking of the first layer."""
    outside, tree, archive = (tmp_path / n for n in ("outside", "tree", "archive"))
    for folder in (outside, tree, archive):
        folder.mkdir()
    data = leaving(name, outside)
    make(package(image, f"leaves-{name}", data))
    (archive / "leaves.deb").write_bytes(data)
    argv = [sys.executable, "-m", "builder.packages.unpack", tree, archive, "1"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPO, timeout=60)
    assert done.returncode == 0 or "leaves.deb" in done.stderr, done.stderr
    assert list(outside.iterdir()) == []


def test_neither_files_nor_wheels_leave_through_links_or_names(
    image: Phx, make: Make, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    links = Script("links", f"ln -s {outside} /srv/out; ln -s ../../../../../..{outside} /srv/up")
    for place in ("/srv/out", "/srv/up"):
        make(links, Write((Placed(f"{place}/file", 0o644, "root", b"out"),)))
        make(links, Write((), (PlacedDirectory(f"{place}/folder", 0o755, "root"),)))
    up = f"../../../../../../../..{outside}"
    names = (f"{up}/module.py", f"{outside}/module.py", f"tool-1.data/data/{up}/x")
    data = wheel("tool", "1", files=dict.fromkeys(names, "out"))
    file, sha256 = "tool-1-py3-none-any.whl", hashlib.sha256(data).hexdigest()
    own = LocalWheel(file, data, "recipe.yaml:1")
    digest = hashlib.sha256(PIP.read_bytes()).hexdigest()
    (image.home / "files").mkdir(exist_ok=True)
    (image.home / "files" / digest).write_bytes(PIP.read_bytes())
    installer = LockedWheel("pip", PIP.name.split("-")[1], PIP.name, digest)
    said = make(Pip((), installer, (LockedWheel("tool", "1", file, sha256),), (own,)))
    assert "outside" in said, "pip refuses it"
    assert list(outside.iterdir()) == []
