"""The fixture ladder of the tiers that make real things: home, images, sandbox host, booted cluster.

Everything goes through the `phx` command, as a user would; a home of its own (artifacts/test) keeps layers
between runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PHX = str(Path(sys.executable).with_name("phx"))


@dataclass
class Phx:
    """Runs phx with one home; keeps what it said."""

    home: Path
    recipes: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        env = {**os.environ, "PHX_HOME": str(self.home), "NO_COLOR": "1", "TERM": "dumb"}
        return {**env, "PHX_RECIPES": str(self.recipes)} if self.recipes else env

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PHX, *map(str, words)], env=self.env, text=True, cwd=REPO, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, *words: object, status: int | None = 0, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if status is not None:
            assert done.returncode == status, f"phx {' '.join(map(str, words))}:\n{out}\n{err}"
        return done

    def json(self, *words: object) -> object:
        return json.loads(self.run(*words, "--json").stdout)

    def nodes(self) -> dict[str, dict[str, str]]:
        return {row["node"]: row for row in self.json("ps")}  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def home() -> Path:
    if os.geteuid() != 0:
        pytest.fail("this tier makes namespaces and mounts: run it as root (make test uses sudo)")
    return REPO / "artifacts" / "test"


@pytest.fixture(scope="session")
def image(home: Path) -> Phx:
    """base and worker are in the catalog."""
    phx = Phx(home)
    phx.run("build", "base", timeout=900)
    phx.run("build", "worker", timeout=300)
    return phx


@pytest.fixture(scope="session")
def sandbox(image: Phx) -> Iterator[str]:
    """A running sandbox host of this session's own; its end takes everything with it."""
    name = f"t{os.getpid()}"
    image.run("host", "up", name)
    yield name
    image.run("host", "down", name, "--force", status=None)


@pytest.fixture
def library(tmp_path: Path, image: Phx) -> Callable[..., Phx]:
    """Write recipes on top of the shipped ones: library(name=text) gives a phx that builds them."""

    def write(**recipes: str) -> Phx:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        for shipped in (REPO / "recipes").iterdir():
            if not (folder / shipped.name).exists():
                (folder / shipped.name).symlink_to(shipped)
        for name, text in recipes.items():
            (folder / name).mkdir(exist_ok=True)
            head = f"name: {name}\nversion: '1'\nsummary: for a test\n"
            (folder / name / "recipe.yaml").write_text(head + text)
        return Phx(image.home, folder)

    return write


def cluster_text(name: str, roles: str, **extra: str) -> str:
    """A cluster file: `roles` is YAML below `roles:`, indented by two."""
    more = "".join(f"{k}: {v}\n" for k, v in extra.items())
    return f"cluster: {name}\n{more}roles:\n{roles}"


ONE = """  one:
    image: {image}
    cpu: {{guarantee: 0.2, limit: 1}}
    memory: 256M
    network: {{guarantee: 1Mbit, limit: 100Mbit}}
"""


def eventually(what: str, true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
