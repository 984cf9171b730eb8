"""Real builds and their faults: what is in an image, what a failed or killed build leaves, what its message says."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import narrow
from tests.vm.conftest import PHX, REPO, Phx, eventually

pytestmark = pytest.mark.root


def debugfs(disk: Path, command: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", command, str(disk)], capture_output=True, text=True, check=True
    ).stdout


def folder(phx: Phx, name: str) -> Path:
    return Path(phx.json("image", "show", name)["folder"])  # type: ignore[index]


def work_left(home: Path) -> list[str]:
    """Work in progress and mounts that no running build holds."""
    mounts = [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(home) in line
    ]
    return mounts + [p.name for p in (home / "images").glob("tmp-*")]


def test_an_image_holds_no_identity(image: Phx) -> None:
    disk = folder(image, "worker") / "disk.raw"
    assert debugfs(disk, "cat /etc/machine-id") == ""
    assert "host_ed25519_key" not in debugfs(disk, "ls -p /etc/ssh")
    for empty in ("/var/log", "/var/lib/apt/lists", "/var/cache/apt/archives"):
        listed = debugfs(disk, f"ls -p {empty}")
        assert "/./" in listed
        assert not re.findall(r"/\d+/10\d{4}/\d+/\d+/([^/]+)/", listed), f"regular files in {empty}"
    assert "File not found" not in debugfs(disk, "stat /usr/lib/philoxenia/agent.py")
    done = subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_manifest_says_what_is_inside(image: Phx) -> None:
    told = image.json("image", "show", "worker")
    assert isinstance(told, dict)
    packages = {p["name"]: p["version"] for p in told["packages"]}
    assert {"openssh-server", "python3", "systemd", "linux-image-cloud-amd64"} <= packages.keys()
    assert all(packages.values())
    for name, digest in told["digests"]:
        done = subprocess.run(
            ["sha256sum", Path(told["folder"]) / name], capture_output=True, text=True
        )
        assert done.stdout.split()[0] == digest


def test_nothing_changed_does_nothing_and_says_why(image: Phx) -> None:
    before = sorted(p.name for p in (image.home / "layers").iterdir())
    said = image.run("build", "worker").stdout
    assert "worker is up to date: image" in said
    assert "same steps, files and packages" in said
    assert sorted(p.name for p in (image.home / "layers").iterdir()) == before


def test_a_lock_is_taken_exactly_and_refused_when_stale(library: Callable[..., Phx]) -> None:
    phx = library(pinned="from: base\npackages: [hello]\n")
    folder = (phx.recipes or Path()) / "pinned"
    assert "packages, written" in phx.run("lock", folder).stdout
    text = (folder / "recipe.lock").read_text()
    assert re.search(r'"hello", "[^"]+", "amd64", "[0-9a-f]{64}"', text)
    assert "0 changed" in phx.run("lock", folder).stdout
    phx.run("build", folder)
    why = {row["step"]: row["why"] for row in phx.json("build", folder, "--explain")}  # type: ignore[attr-defined]
    assert set(why.values()) == {"same input as when it was made"}

    version = re.search(r'"hello", "([^"]+)"', text)[1]  # type: ignore[index]
    gone = text.replace(f'"{version}"', '"0.1-1"')
    (folder / "recipe.lock").write_text(gone)
    said = phx.run("build", folder, status=1).stderr
    assert "no package 'hello=0.1-1' in Debian's archive" in said
    assert "phx lock RECIPE --update shows what changed" in said
    why = {row["step"]: row["why"] for row in phx.json("build", folder, "--explain")}  # type: ignore[attr-defined]
    assert f"locked: -hello={version} +hello=0.1-1" in " ".join(why.values())

    (folder / "recipe.lock").write_text(re.sub(r'"hello", "([^"]+)", "amd64", "[0-9a-f]{64}"',
                                               r'"hello", "\1", "amd64", "' + "0" * 64 + '"', text))  # fmt: skip
    said = phx.run("build", folder, status=1).stderr
    assert "hello" in said
    assert "another sha256 than its lock says" in said

    (folder / "recipe.lock").write_text(text)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("[hello]", "[hello, sl]"))
    said = phx.run("build", folder, status=2).stderr
    assert "is of other packages than the recipe now asks for" in said
    assert "sl" in phx.run("lock", folder, "--update").stdout


def test_a_missing_package_is_named_with_its_line_and_layers_are_kept(
    library: Callable[..., Phx],
) -> None:
    phx = library(lacks="from: base\npackages:\n  - hello\n  - no-such-package\n")
    before = len(list((phx.home / "layers").glob("*/layer.json")))
    said = phx.run("build", "lacks", status=1)
    assert re.search(
        r"lacks/recipe\.yaml:7: packages\[1\]: no package 'no-such-package'", said.stderr
    ), said.stderr
    assert len(list((phx.home / "layers").glob("*/layer.json"))) >= before
    assert work_left(phx.home) == []


def test_a_failed_step_tells_its_last_words_and_the_next_run_resumes(
    library: Callable[..., Phx],
) -> None:
    steps = "from: base\nrun:\n  - {name: first, script: echo made > /made}\n  - {name: second, script: %s}\n"
    stamp = str(time.time())
    phx = library(
        broken=steps.replace("made >", f"{stamp} >") % '"echo it went wrong here >&2; exit 3"'
    )
    said = phx.run("build", "broken", status=1).stderr
    assert "failed: run: second" in said
    assert "exit 3: sh: it went wrong here" in said
    phx = library(broken=steps.replace("made >", f"{stamp} >") % '"true"')
    said = phx.run("build", "broken").stderr
    assert "run: first" not in said, "the layer of the first step was kept"
    assert debugfs(folder(phx, "broken") / "disk.raw", "cat /made") == f"{stamp}\n"


def test_a_run_step_has_no_network_and_cannot_leave_its_tree(
    library: Callable[..., Phx], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    phx = library(
        caged="from: base\nrun:\n  - name: look\n    script: |\n"
        f"      ip -o link | grep -v ' lo:' && exit 1\n      ln -s {outside} /etc/evil\n",
        deeper="from: caged\nfiles:\n  - {path: /etc/evil/file, content: mine}\n",
    )
    phx.run("build", "deeper", status=None)
    assert list(outside.iterdir()) == []


def test_a_tree_larger_than_its_size_says_so(library: Callable[..., Phx]) -> None:
    phx = library(tight="from: base\nsize: 100M\n")
    said = phx.run("build", "tight", status=1).stderr
    assert "the tree does not fit into 100M" in said
    assert "raise 'size' in the recipe" in said
    assert work_left(phx.home) == []


def test_killed_and_interrupted_builds_leave_no_mounts_and_go_on(
    library: Callable[..., Phx],
) -> None:
    stamp = time.time()
    phx = library(
        slow=f"from: base\nrun:\n  - {{name: a, script: 'echo {stamp}'}}\n  - {{name: b, script: sleep 3.25}}\n"
    )
    for how, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        process = phx.start("build", "slow")
        time.sleep(1.5)
        process.send_signal(how)
        _, err = process.communicate(timeout=20)
        assert process.returncode == status
        if how == signal.SIGINT:
            assert "interrupted; run the same command again to go on" in err
        eventually("what it started is gone", lambda: "sleep 3.25" not in _processes(), 10)
        assert work_left(phx.home) == []
    said = phx.run("build", "slow").stderr
    assert "run: a" not in said
    assert not list((phx.home / "layers" / "tmp").glob("work-*")), "the dead builds' work was swept"


def _processes() -> str:
    return subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout


def test_two_builds_of_one_thing_share_the_work(library: Callable[..., Phx]) -> None:
    phx = library(
        shared=f"from: base\nrun:\n  - {{name: once, script: 'echo {time.time()}; sleep 2'}}\n"
    )
    both = [phx.start("build", "shared") for _ in range(2)]
    said = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("waiting for another build" in err for _, err in said) >= 1
    ids = {re.search(r"image (\w{12})", out)[1] for out, _ in said}  # type: ignore[index]
    assert len(ids) == 1


def _with_home(
    setup: str, home: Path, mirror: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`phx build base` in a mount namespace where `setup` has been run; a home of its own."""
    copy = home.parent / "apt"
    etc = f"""cp -a /etc/apt {copy}; rm -rf {copy}/sources.list.d/*; mount --bind {copy} /etc/apt
echo 'deb {mirror} bookworm main' > /etc/apt/sources.list
"""
    etc = etc if mirror else ""
    env = {**os.environ, "PHX_HOME": str(home), "TERM": "dumb"}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f"{setup}\n{etc}exec {PHX} build base"],
        capture_output=True, text=True, env=env, timeout=300, cwd=REPO,
    )  # fmt: skip


def test_a_full_disk_is_called_that(tmp_path: Path) -> None:
    home = tmp_path / "small"
    home.mkdir()
    done = _with_home(f"mount -t tmpfs -o size=120M small {home}", home)
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr


def test_a_silent_mirror_is_called_that(tmp_path: Path) -> None:
    done = _with_home(":", tmp_path / "home", mirror="http://127.0.0.1:9/debian")
    assert done.returncode == 1, done.stderr
    assert "the mirror in this machine's apt configuration does not answer" in done.stderr
    shutil.rmtree(tmp_path / "home")


def test_prune_keeps_what_is_newest_or_used(library: Callable[..., Phx]) -> None:
    text = "from: base\nrun:\n  - {name: once, script: 'echo %s'}\n"
    phx = library(pruned=text % time.time())
    phx.run("build", "pruned")
    old = phx.json("image", "show", "pruned")["id"]  # type: ignore[call-overload,index]
    phx = library(pruned=text % time.time())
    phx.run("build", "pruned")
    said = phx.json("image", "prune", "--keep", "1s")
    assert old in said["images"]  # type: ignore[call-overload,index]
    assert said["layers"] >= 1  # type: ignore[call-overload,index]
    names = [m["name"] for m in phx.json("image", "ls")]  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
    assert "up to date" in phx.run("build", "pruned").stdout
    why = {row["why"] for row in phx.json("build", "pruned", "--explain")}  # type: ignore[attr-defined]
    assert why == {"same input as when it was made"}


def test_users_directories_and_conditions_in_a_real_tree(library: Callable[..., Phx]) -> None:
    phx = library(
        peopled="""from: base
parameters: {debug: {type: boolean, default: false}}
users: [{name: ada, summary: Ada Lovelace}]
directories: [{path: /srv/data, owner: ada, mode: 0750}]
files:
  - {path: /srv/data/on, content: yes it is, owner: ada}
  - {path: /srv/data/off, content: absent, when: debug}
run:
  - {name: as ada, user: ada, script: id -un > /srv/data/who}
"""
    )
    phx.run("build", "peopled")
    disk = folder(phx, "peopled") / "disk.raw"
    assert debugfs(disk, "cat /srv/data/who") == "ada\n"
    assert re.search(
        r"^ada:x:1000:1000:Ada Lovelace[^:]*:/home/ada:/bin/bash$",
        debugfs(disk, "cat /etc/passwd"),
        re.M,
    )
    assert re.search(r"^ada:\*:", debugfs(disk, "cat /etc/shadow"), re.M)
    said = debugfs(disk, "stat /srv/data")
    assert "Mode:  0750" in said
    assert "User:  1000   Group:  1000" in said
    names = debugfs(disk, "ls -p /srv/data")
    assert "/on/" in names
    assert "/off/" not in names


def test_a_tree_larger_than_the_memory(library: Callable[..., Phx]) -> None:
    phx = library(
        large="from: base\nsize: 1500M\nrun:\n  - {name: fill, script: 'head -c 1G /dev/urandom > /data'}\n"
    )
    with narrow.memory(300 << 20) as group:
        done = subprocess.run(
            ["sh", "-c", f"echo $$ > {group}/cgroup.procs; exec {PHX} build large"],
            env=phx.env, cwd=REPO, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert narrow.killed(group) == 0
    disk = folder(phx, "large") / "disk.raw"
    digest = dict(phx.json("image", "show", "large")["digests"])["disk.raw"]  # type: ignore[call-overload,index]
    with disk.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert "Size: 1073741824" in debugfs(disk, "stat /data")
    phx.run("image", "rm", "large")
    time.sleep(1.1)
    phx.run("image", "prune", "--keep", "1s")
