"""Builds by an ordinary user: the same bytes as root's, and nothing left that the user cannot remove.

The user exists in a mount namespace only, where /etc/passwd and the lists of lent ids are copies with one line more.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import REPO, Phx, eventually

pytestmark = pytest.mark.root

UID = 4242
LENT = {
    "passwd": f"guest4242:x:{UID}:{UID}::/mnt/home:/bin/sh",
    "group": f"guest4242:x:{UID}:",
    "subuid": "guest4242:1000000000:65536",
    "subgid": "guest4242:1000000000:65536",
}

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def user(image: Phx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a command as the user, whose home has root's package cache and locks and nothing else.

    The clone is at /mnt/clone, because it may lie where only root can go.
    """
    folder = tmp_path_factory.mktemp("rootless")
    for kept in ("packages", "locks"):
        shutil.copytree(image.home / kept, folder / "home" / kept)
    subprocess.run(["chown", "-R", f"{UID}:{UID}", folder / "home"], check=True)
    binds = ""
    for name, line in LENT.items():
        text = Path("/etc", name).read_text() if Path("/etc", name).exists() else ""
        (folder / name).write_text(f"{text.rstrip()}\n{line}\n".lstrip())
        binds += (
            f"[ -e /etc/{name} ] || : > /etc/{name}\nmount --bind {folder}/{name} /etc/{name}\n"
        )

    def start(*argv: object, lent: bool = True) -> subprocess.Popen[str]:
        script = f"""{binds if lent else ""}
mount -t tmpfs mnt /mnt; mkdir /mnt/clone /mnt/home
mount --bind {shlex.quote(str(REPO))} /mnt/clone; mount --bind {folder}/home /mnt/home
cd /mnt/clone
exec setpriv --reuid {UID} --regid {UID} --clear-groups --reset-env env PHX_HOME=/mnt/home TERM=dumb "$@"
"""
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", script, "sh", *map(str, argv)],
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    yield start
    shutil.rmtree(folder)


PHX = (".venv/bin/python", "-c", "from cluster.cli import main; main()")


def done(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out + err


def test_the_same_image_as_roots_twice(user: Start, image: Phx) -> None:
    said = done(user(*PHX, "build", "base", "--check"))
    roots = image.json("image", "show", "base")["id"]  # type: ignore[call-overload,index]
    assert f" is image {roots[:12]}, " in said
    assert "built again in a folder of its own: every byte is the same" in said
    assert "up to date" in done(user(*PHX, "build", "base"))
    assert "ok     builds without root" in done(user(*PHX, "doctor"), status=3)


def test_an_export_is_the_users_own_and_the_same_as_roots(
    user: Start, image: Phx, tmp_path: Path
) -> None:
    for form, *more in (("tar",), ("squashfs",), ("erofs",), ("vhd", "--bootable")):
        name = f"base.{form}"
        done(user(*PHX, "image", "export", "base", f"/mnt/home/{name}", "--format", form, *more))
        image.run("image", "export", "base", tmp_path / name, "--format", form, *more)
        shown = done(user("sha256sum", f"/mnt/home/{name}")).split()[0]
        roots = subprocess.run(["sha256sum", tmp_path / name], capture_output=True, text=True)
        assert shown == roots.stdout.split()[0], form
        done(user("rm", f"/mnt/home/{name}"))


def test_a_secret_is_looked_for_among_files_of_lent_ids_and_a_shell_has_it(user: Start) -> None:
    recipe = f"""from: base
run:
  - name: leaks
    user: daemon
    secrets: [token]
    script: |
      umask 077; cat /run/secrets/token > /var/tmp/kept; echo {time.time()}
"""
    head = "name: leaky\nversion: '1'\nsummary: for a test\n"
    write = f"mkdir -p /mnt/home/leaky; printf %s {shlex.quote(head + recipe)} > /mnt/home/leaky/recipe.yaml"
    done(user("sh", "-c", f"{write}; echo hunter2hunter2 > /mnt/home/token"))
    secret = ("/mnt/home/leaky", "--secret", "token=file:/mnt/home/token")
    said = done(user(*PHX, "build", *secret), status=1)
    assert "it leaves the secret 'token' in the image, in /var/tmp/kept" in said
    typed = 'printf "cat /run/secrets/token; ls -l /var/tmp" | exec "$@"'
    said = done(user("sh", "-c", typed, "sh", *PHX, "build", *secret, "--shell"), status=1)
    assert "hunter2hunter2\n" in said and "daemon" in said


def test_a_user_without_lent_ids_hears_what_to_do(user: Start) -> None:
    said = done(user(*PHX, "build", "worker", lent=False), status=3)
    assert f"error: builds without root do not work here: {UID} has no 65535 ids" in said
    assert f"hint: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {UID}" in said


def test_an_interrupted_build_leaves_nothing_that_the_user_cannot_remove(user: Start) -> None:
    recipe = f"from: base\nrun:\n  - {{name: own, script: 'echo {time.time()} >/own; chown 33:33 /own; sleep 30.25'}}\n"
    head = "name: slow\nversion: '1'\nsummary: for a test\n"
    write = f"mkdir -p /mnt/home/slow; printf %s {shlex.quote(head + recipe)} > /mnt/home/slow/recipe.yaml"
    done(user("sh", "-c", write))
    for how in (signal.SIGINT, signal.SIGKILL):
        process = user(*PHX, "build", "/mnt/home/slow")
        assert process.stderr
        eventually("the step runs", lambda p=process: "run: own" in p.stderr.readline())  # type: ignore[misc]
        time.sleep(0.5)
        process.send_signal(how)
        process.communicate(timeout=20)
        eventually("what it started is gone", lambda: "sleep 30.25" not in _processes(), 10)
    done(user(*PHX, "image", "rm", "base"))
    time.sleep(1.1)
    done(user(*PHX, "image", "prune", "--keep", "1s"))
    done(user("sh", "-c", 'rm -rf /mnt/home/* && [ -z "$(ls -A /mnt/home)" ]'))


def _processes() -> str:
    return subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
