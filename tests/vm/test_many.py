"""Many recipes at once, for real: one after the other where they share, and all of them stopped by one Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.conftest import Phx, eventually
from tests.vm.test_build import _processes, work_left

pytestmark = pytest.mark.root


def test_all_recipes_at_once_and_what_fails_stops_its_children_only(
    library: Callable[..., Phx],
) -> None:
    stamp = time.time()
    phx = library(
        shared=f"from: base\nsize: 512M\nrun:\n  - {{name: once, script: 'echo {stamp}; sleep 1'}}\n",
        left="from: shared\nsize: 512M\nrun:\n  - {name: left, script: 'echo left > /which'}\n",
        broken="from: shared\nrun:\n  - {name: breaks, script: 'echo it broke >&2; exit 3'}\n",
        under="from: broken\nrun:\n  - {name: never, script: 'true'}\n",
        odd="from: base\nrunn: []\n",
        odder="from: odd\n",
    )
    for shipped in (phx.recipes or Path()).iterdir():
        if shipped.is_symlink() and shipped.name != "base":
            shipped.unlink()
    done = phx.run("build", "--all", "-j", "2", "--json", status=1)
    rows = {row["recipe"]: row for row in json.loads(done.stdout)}
    assert {name: (row["result"], row["because"]) for name, row in rows.items()} == {
        "base": ("up to date", None), "shared": ("built", None), "left": ("built", None),
        "broken": ("failed", None), "under": ("not built", "broken"),
        "odd": ("failed", None), "odder": ("not built", "odd"),
    }  # fmt: skip
    assert "it broke" in rows["broken"]["error"]
    assert "unknown key 'runn'" in rows["odd"]["error"]
    lines = done.stderr.splitlines()
    assert sum("run: once" in line for line in lines) == 1, "shared layers are made once"
    assert sum("shared: layer" in line for line in lines) >= 2, "a line begins with its recipe"
    phx = library(
        shared=f"from: base\nsize: 512M\nrun:\n  - {{name: once, script: 'echo {stamp}; sleep 1'}}\n",
        left="from: shared\nsize: 512M\nparameters: {way: {default: left}}\n"
        "matrix: {far: {way: far}, near: {way: near}}\n"
        "run:\n  - {name: same, script: 'echo left > /which'}\n"
        "  - {name: other, script: 'echo {{ way }} > /way'}\n",
    )
    done = phx.run("build", "left", "-j", "1")
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == ["left-far", "left-near"]
    assert done.stderr.count("run: same") == 0, "made above, for the recipe without a matrix"
    assert done.stderr.count("run: other") == 2, "what differs is made for each"
    assert "left-near is up to date" in phx.run("build", "left:near").stdout
    images = {m["name"]: m["id"] for m in phx.json("image", "ls")}  # type: ignore[attr-defined]
    assert images["left-far"] != images["left-near"]
    table = phx.run("build", "left", "shared").stdout.splitlines()
    assert table[0].split() == ["RECIPE", "IMAGE", "RESULT", "SECONDS"]
    assert [row.split()[0] for row in table[1:]] == ["shared", "left-far", "left-near"]


def test_ctrl_c_stops_every_build_and_leaves_the_store_clean(library: Callable[..., Phx]) -> None:
    stamp = time.time()
    text = "from: base\nrun:\n  - {name: slow, script: 'echo %s; sleep 31.4'}\n"
    phx = library(one=text % stamp, two=text % (stamp + 1))
    process = phx.start("build", "one", "two", "-j", "2")
    eventually("both are at it", lambda: _processes().count("\nsleep 31.4") == 2, 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; run the same command again to go on" in err
    eventually("what they started is gone", lambda: "sleep 31.4" not in _processes(), 10)
    assert work_left(phx.home) == []
    assert not [p for p in (phx.home / "layers/tmp").iterdir() if p.suffix != ".lock"]


def test_two_cold_builds_ask_and_fetch_one_after_the_other(
    library: Callable[..., Phx], tmp_path: Path
) -> None:
    """apt's state is one, and so is the package cache: both succeed, and base's layers are made once."""
    text = "from: base\nsize: 512M\npackages: [%s]\n"
    phx = library(first=text % "hello", second=text % "sl")
    home = tmp_path / "home"
    (home / "packages").mkdir(parents=True)
    for deb in sorted((phx.home / "packages").glob("*.deb")):
        if not deb.name.startswith(("hello_", "sl_", "dash_", "sed_")):
            shutil.copy(deb, home / "packages")
    cold = Phx(home, phx.recipes)
    both = [cold.start("build", name) for name in ("first", "second")]
    said = [p.communicate(timeout=400) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    text = said[0][1] + said[1][1]
    assert text.count("layer 1/") == 2 and "waiting for another build" in text
    assert cold.run("image", "fsck", "--deep").stdout.startswith("nothing wrong")
    shutil.rmtree(home)
