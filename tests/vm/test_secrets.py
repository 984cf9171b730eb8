"""Build secrets, for real: they reach their step, and afterwards nothing that phx wrote or said has them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.conftest import Phx
from tests.vm.test_build import debugfs, folder

pytestmark = pytest.mark.root

TOKEN = os.urandom(12).hex()

RECIPE = """from: base
users: [{name: app}]
run:
  - name: %s
    user: app
    secrets: [token]
    script: |
      [ "$(cat /run/secrets/token)" = "$(cat /run/secrets/token)" ]
      stat -c '%%a %%U' /run/secrets/token > ~/seen; sha256sum < /run/secrets/token >> ~/seen
      echo "it is $(cat /run/secrets/token)"; tr '\\0' '\\n' < /proc/$$/environ
      [ ! -t 0 ] && [ -z "$(cat)" ] || exit 9
      %s
"""


def holding(where: Path, word: str) -> list[str]:
    done = subprocess.run(["grep", "-rlaF", word, where], capture_output=True, text=True)
    return done.stdout.split()


def test_a_secret_reaches_its_step_and_stays_nowhere(
    library: Callable[..., Phx], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, file = f"log in {time.time()}", tmp_path / "token"
    file.write_text(TOKEN + "\n")
    phx = library(private=RECIPE % (stamp, "true"))
    before = time.time()

    said = phx.run("build", "private", status=2).stderr
    assert "private/recipe.yaml:9: run[0].secrets[0]: the secret 'token' is not given" in said
    assert "hint: phx build private --secret token=file:PATH, or token=env:VARIABLE" in said
    assert "layer" not in said, "told before anything runs"
    said = phx.run("build", "private", "worker", status=1).stderr
    assert "the secret 'token' is not given" in said
    said = phx.run("build", "private", "--secret", f"tokne=file:{file}", status=2).stderr
    assert "--secret tokne: no step asks for this secret\n  hint: did you mean 'token'?" in said

    done = phx.run("build", "private", "--secret", f"token=file:{file}")
    seen = debugfs(folder(phx, "private") / "disk.raw", "cat /home/app/seen").split()
    digest = subprocess.run(["sha256sum", file], capture_output=True, text=True).stdout.split()[0]
    assert seen == ["400", "app", digest, "-"]
    assert TOKEN not in done.stdout + done.stderr
    logs = [p for p in (phx.home / "logs").glob("build-private-*") if p.stat().st_mtime >= before]
    assert any("it is ***" in p.read_text() for p in logs)
    for kept in ("layers", "logs", "told", "locks"):
        assert holding(phx.home / kept, TOKEN) == []
    assert holding(folder(phx, "private"), TOKEN) == []

    # A layer that is there needs no secret; another value is no other input.
    assert "is up to date" in phx.run("build", "private").stdout
    monkeypatch.setenv("OTHER", "another")
    assert "is up to date" in phx.run("build", "private", "--secret", "token=env:OTHER").stdout


def test_a_step_that_leaves_its_secret_behind_or_says_it_fails_without_telling_it(
    library: Callable[..., Phx], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    secret = ("--secret", f"token=file:{file}")
    keeps = "mkdir -p ~/.cache; { echo x; cat /run/secrets/token; } > ~/.cache/netrc"
    phx = library(leaky=RECIPE % (f"keep {time.time()}", keeps))
    said = phx.run("build", "leaky", *secret, status=1).stderr
    assert "it leaves the secret 'token' in the image, in /home/app/.cache/netrc" in said
    assert "hint: remove it in the same script" in said
    phx = library(
        leaky=RECIPE % (f"say {time.time()}", "set -x; cat /run/secrets/token no-such >&2")
    )
    said += phx.run("build", "leaky", *secret, status=1).stderr
    assert "*** cat: no-such" in said.replace("\n", " ") or "***cat: no-such" in said
    assert TOKEN not in said
    for kept in ("layers", "logs"):
        assert holding(phx.home / kept, TOKEN) == []
