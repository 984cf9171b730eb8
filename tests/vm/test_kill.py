"""kill -9 at a hundred random moments of a build: what is kept is whole, and the next build makes the same bytes."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.fsck import examine
from builder.images.disk import sha256_of
from builder.layers import LayerStore, measured
from tests.vm.conftest import REPO, Phx
from tests.vm.test_build import work_left

pytestmark = pytest.mark.root

KILLS = 100
LEAN = """from: plain
size: 64M
kernel: {package: linux-image-cloud-amd64}
run:
  - name: a small tree, so that a hundred builds take little
    script: |
      cd /usr/lib
      rm -r modules/*/kernel python3* x86_64-linux-gnu/perl* x86_64-linux-gnu/gconv /usr/share udev
      find /usr/bin /usr/sbin x86_64-linux-gnu -size +1M ! -name 'lib*' ! -name busybox ! -name systemctl -delete
"""
RECIPE = """from: lean
size: 160M
users: [{name: ada}]
directories: [{path: /srv/data, owner: ada}]
files: [{path: /srv/data/word, content: a word, owner: ada}]
services: {disable: [philoxenia-agent.service]}
run:
  - {name: one, script: 'seq 20000 > /srv/data/one'}
  - {name: two, user: ada, script: 'tac /srv/data/one > /srv/data/two'}
"""


@dataclass
class Victim:
    """A recipe whose builds are killed, the image that it makes, the layers that are its own."""

    phx: Phx
    image: str
    layers: tuple[str, ...]

    @property
    def store(self) -> LayerStore:
        return LayerStore(self.phx.home / "layers")

    def whole(self) -> None:
        """Nothing in the home is wrong, and each layer of ours that is there has the bytes that it says."""
        wrong = [f for f in examine(self.phx.home, False, lambda _: None) if f.wrong]
        assert wrong == []
        for layer in filter(self.store.has, self.layers):
            tree = self.store.folder(layer) / "tree"
            assert measured(tree)[1] == self.store.info(layer).digest, layer

    def same(self) -> None:
        """The image is there, and its disk holds what its id says."""
        told = self.phx.json("image", "show", "killed")
        assert isinstance(told, dict)
        assert told["id"] == self.image
        assert sha256_of(Path(told["folder"]) / "disk.raw") == dict(told["digests"])["disk.raw"]

    def forget(self, layers: bool) -> None:
        """Let the image, and maybe the layers, be made again."""
        shutil.rmtree(self.phx.home / "images" / self.image[:16], ignore_errors=True)
        for layer in self.layers if layers else ():
            shutil.rmtree(self.store.folder(layer), ignore_errors=True)


@pytest.fixture
def victim(library: Callable[..., Phx]) -> Iterator[Victim]:
    phx = library(lean=LEAN, killed=RECIPE)
    # base without its tests, which a tree that lacks half of it would fail. Its layers are the same.
    plain = (phx.recipes or Path()) / "plain"
    shutil.copytree(REPO / "recipes" / "base", plain)
    text = (plain / "recipe.yaml").read_text().partition("\ntests:")[0]
    (plain / "recipe.yaml").write_text(text.replace("name: base", "name: plain"))
    phx.run("build", "killed")
    told, base = phx.json("image", "show", "killed"), phx.json("image", "show", "base")
    assert isinstance(told, dict)
    assert isinstance(base, dict)
    own = tuple(layer for layer in told["layers"] if layer not in base["layers"])[1:]
    assert len(own) == 6
    made = Victim(phx, told["id"], own)
    yield made
    made.forget(layers=True)


def test_killed_at_any_moment(victim: Victim) -> None:
    phx, chance = victim.phx, random.Random(1)
    victim.forget(layers=True)
    started = time.monotonic()
    phx.run("build", "killed")
    whole = time.monotonic() - started
    victim.same()
    killed = ended = 0
    while killed < KILLS and ended < KILLS:
        victim.forget(layers=chance.random() < 0.5)
        process = phx.start("build", "killed")
        time.sleep(chance.uniform(0.1, 1) * whole)
        process.kill()
        _, said = process.communicate(timeout=20)
        victim.whole()
        if process.returncode == 0:
            # The machine is faster now than it was at first.
            ended, whole = ended + 1, whole * 0.9
            victim.same()
            continue
        assert process.returncode == -9, said
        killed += 1
    assert killed == KILLS, "the builds were killed, not watched"
    phx.run("build", "killed")
    victim.same()
    assert work_left(phx.home) == []
    assert not list((phx.home / "layers" / "tmp").glob("work-*")), "the dead builds' work was swept"


def test_a_build_goes_on_when_the_one_that_it_waits_for_is_killed(victim: Victim) -> None:
    victim.forget(layers=True)
    first = victim.phx.start("build", "killed")
    second = victim.phx.start("build", "killed")
    time.sleep(0.5)
    first.kill()
    first.communicate(timeout=20)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    victim.whole()
    victim.same()
