"""Python packages of recipes, for real: an index of small wheels, locked, installed without it, bit by bit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import WorkFailed, explain
from builder.language import recipe
from builder.packages import pip
from tests.invented import wheel
from tests.test_recipe import ROOT
from tests.test_recipe import library as library_of
from tests.vm.conftest import Phx
from tests.vm.test_build import debugfs, folder

pytestmark = pytest.mark.root

PIP = next(Path("/usr/share/python-wheels").glob("pip-*.whl"))
"""Debian's, of python3-venv: it stands for the index's."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that this machine's pip knows."""
    made = tmp_path / "index"
    made.mkdir()
    shutil.copy(PIP, made)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made))
    for name in ("PIP_CONSTRAINT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return made


def offer(index: Path, name: str, version: str, *requires: str, **files: str) -> Path:
    path = index / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(
        wheel(name, version, requires, {k.replace("__", "/"): v for k, v in files.items()})
    )
    return path


RECIPE = """from: base
pip:
  - tool==1.0
  - {name: debugger, when: 'false'}
  - wheel: wheels/own-3.0-py3-none-any.whl
run:
  - name: use them
    script: |
      : %s
      python3 -c 'import tool, lib, own; print(tool.version, lib.version, own.version)' > /seen
      { tool; head -1 /usr/local/bin/tool; } >> /seen
"""


def test_python_packages_are_locked_and_installed_without_an_index(
    library: Callable[..., Phx], index: Path
) -> None:
    offer(index, "tool", "1.0", "lib>=1")
    offer(index, "tool", "2.0")
    offer(index, "lib", "1.0")
    offer(index, "lib", "1.1")
    offer(index, "venom", "9", "lib")
    phx = library(snake=RECIPE % time.time(), viper="from: snake\npip: [lib, venom]\n")
    wheels, place = ((phx.recipes or Path()) / name for name in ("snake/wheels", "viper"))
    wheels.mkdir()
    # Of each run its own: no earlier run has made this layer.
    offer(wheels, "own", "3.0", "Lib", own__stamp=str(time.time()))
    assert "packages, written" in phx.run("lock", place).stdout
    locked = (place / "recipe.lock").read_text()
    assert '["lib", "1.1", "lib-1.1-py3-none-any.whl", "' in locked

    offer(index, "lib", "1.2")
    done = phx.run("build", place)
    assert "pip install tool==1.0, own-3.0-py3-none-any.whl" in done.stderr
    disk = folder(phx, "viper") / "disk.raw"
    assert debugfs(disk, "cat /seen") == "1.0 1.1 3.0\n1.0\n#!/usr/bin/python3\n"
    before = phx.json("image", "show", "viper")
    # A child's are resolved over its parent's; what the parent has is not installed again.
    versions = {w["name"]: w["version"] for w in before["wheels"]}  # type: ignore[call-overload,index]
    assert versions == {"lib": "1.1", "own": "3.0", "tool": "1.0", "venom": "9"}
    site = "/usr/local/lib/python3.11/dist-packages"
    assert "direct_url" not in debugfs(disk, f"ls {site}/tool-1.0.dist-info")
    assert "pip-" not in debugfs(disk, f"ls {site}"), "it only installs"

    table = phx.run("lock", place, "--update").stdout.splitlines()
    assert table[0].split() == ["PACKAGE", "WAS", "IS"]
    assert table[1].split() == ["pip", "lib", "1.1", "1.2"]

    # Again, without an index: the same wheels from the cache, the same bytes.
    shutil.rmtree(index)
    (place / "recipe.lock").write_text(locked)
    phx.run("image", "rm", "viper")
    for layer in before["layers"][4:]:  # type: ignore[call-overload,index]
        shutil.rmtree(phx.home / "layers" / layer[:20])
    assert "pip install tool==1.0" in phx.run("build", place).stderr
    assert phx.json("image", "show", "viper")["id"] == before["id"]  # type: ignore[call-overload,index]


def test_what_pip_cannot_give_is_named_with_its_line(index: Path, tmp_path: Path) -> None:
    offer(index, "tool", "1.0", "lib<1")
    offer(index, "lib", "1.0")
    offer(index, "lib", "0.9")
    (index / "old-1.0.tar.gz").write_bytes(b"has to be compiled")
    foreign = "a-1-cp27-cp27m-win32.whl"
    asker = pip.Pip("bookworm", tmp_path / "files", tmp_path / "log")

    def refused(items: str) -> str:
        made = library_of(tmp_path, {"base/recipe.yaml": f"{ROOT}pip: {items}\n"})
        (made / "base" / foreign).write_bytes(wheel("a", "1"))
        with pytest.raises(WorkFailed) as caught:
            pip.resolve(recipe.load(made / "base", made, {}), asker, lambda _: None)
        return explain(caught.value).replace(str(tmp_path), "TMP")

    no_wheel = "no wheel of '%s' for Python 3.11 on amd64 in this machine's pip index\n  hint: "
    said = refused("[tool, old]")
    assert said.startswith(f"error: TMP/base/recipe.yaml:7: pip[1]: {no_wheel % 'old'}")
    assert said.endswith("and named as {wheel: FILE}")
    said = refused("[tool==7]")
    assert said.startswith(f"error: TMP/base/recipe.yaml:7: pip[0]: {no_wheel % 'tool==7'}")
    said = refused("[tool, lib==1.0]")
    assert "recipe.yaml: pip finds no way to install these together: " in said
    assert "The user requested lib==1.0; tool 1.0 depends on lib<1" in said
    said = refused(f"[{{wheel: {foreign}}}]")
    assert f"recipe.yaml:7: pip[0].wheel: {foreign} is no wheel for Python 3.11 on amd64" in said

    [tool] = [w for w in asker.resolve(["tool"], (), (), {}) if w.name == "tool"]
    offer(index, "tool", "1.0", "lib<1", tool__more="another file of the same version")
    with pytest.raises(WorkFailed, match=r"tool 1\.0 came with another sha256 than its lock says"):
        asker.fetch([tool], lambda _: None)
    (index / "tool-1.0-py3-none-any.whl").unlink()
    with pytest.raises(WorkFailed, match=r"no wheel of 'tool==1\.0'") as caught:
        asker.fetch([tool], lambda _: None)
    assert "phx lock RECIPE --update" in caught.value.hint
    assert list((tmp_path / "files").iterdir()) == []
