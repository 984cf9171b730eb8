"""`--shell`, without a terminal: a shell in the tree as the failed step left it, which is gone afterwards."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from tests.vm.conftest import PHX, REPO, Phx
from tests.vm.test_build import work_left

pytestmark = pytest.mark.root

RECIPE = """from: base
users: [{name: app}]
run:
  - name: prepare
    script: mkdir /srv/app; chown app /srv/app; echo %s > /srv/app/stamp
  - name: breaks
    user: app
    secrets: [token]
    script: |
      echo half > /srv/app/begun
      grep whole /srv/app/begun
"""

LOOK = "id -un; cat /srv/app/begun; cat /run/secrets/token; touch /srv/app/by-hand; pwd; exit 7\n"


def typed(phx: Phx, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PHX, *words],
        env=phx.env,
        input=text,
        text=True,
        capture_output=True,
        cwd=REPO,
        timeout=300,
    )


def test_a_shell_where_a_step_failed_and_one_before_it(
    library: Callable[..., Phx], monkeypatch: pytest.MonkeyPatch
) -> None:
    phx = library(halfway=RECIPE % time.time())
    monkeypatch.setenv("TOKEN", "hunter2")
    secret = ("--secret", "token=env:TOKEN")
    said = phx.run("build", "halfway", *secret, status=1).stderr
    assert "the same command with --shell opens a shell where it failed" in said

    done = typed(phx, LOOK, "build", "halfway", "--shell", *secret)
    assert done.returncode == 1, "the step failed all the same"
    assert done.stdout == "app\nhalf\nhunter2/home/app\n"
    assert "a shell in the tree of the step, as its user" in done.stderr
    assert "step 7/8 failed: run: breaks" in done.stderr

    # The step's own view, before it ran; nothing of the other shell is there.
    look = "ls /srv/app; stat -c %a /run/secrets/token\n"
    done = typed(phx, look, "build", "halfway", "--shell=7", *secret)
    assert (done.returncode, done.stdout) == (0, "stamp\n400\n"), done.stderr
    assert "before step 7 run: breaks" in done.stderr
    done = typed(phx, "id -un; ls /srv; exit 3\n", "build", "halfway", "--shell=6")
    assert (done.returncode, done.stdout) == (3, "root\n")

    said = typed(phx, "", "build", "halfway", "--shell=9").stderr
    assert "error: --shell: 9 is no step with a tree to enter" in said
    assert "phx build halfway --explain lists them: 2 to 8" in said
    assert (
        "is for one recipe at a time" in typed(phx, "", "build", "base", "worker", "--shell").stderr
    )
    assert work_left(phx.home) == []
