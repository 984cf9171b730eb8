"""Building: the base appliance from a warm package cache, beside mmdebstrap from the very same packages.

The peer makes a tree and packs it as a tar, as it does by default; ours makes a tree, an initrd, a bootable ext4 image,
its digests and its manifest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from builder import acts, line, plan
from builder.choice import Chosen
from builder.layers import LayerStore
from builder.steps import Bootstrap
from builder.terminal import Terminal, home, library
from tests.bench import NONE, phx, show, timed

RECIPE = """name: changing
version: '1'
summary: for the bench
from: base
packages: [{package}]
run:
  - name: the last step
    script: echo {line} > /etc/line
"""


def measure(terminal: Terminal) -> None:
    terminal.report("fetching packages")
    phx("build", "base")
    shop = line.Line(home(), library(), terminal.report)
    flat = shop.load(Chosen("base", library() / "base"), {})
    found, _ = shop.locks.facts(flat, library() / "base")
    drawn = plan.plan(flat, found)
    step = drawn.steps[0]
    assert isinstance(step, Bootstrap)
    fresh = home() / "bench"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    log = fresh / "log"

    def peer() -> None:
        store = LayerStore(fresh / "peer")
        with store.begin(()) as chamber:
            acts.oracle(step, chamber, shop.caches, log)
            chamber.outside(f'tar -C "$m" -cf {fresh}/peer.tar .', timeout=600)

    homes = iter(range(100))

    def ours() -> None:
        here = fresh / f"ours{next(homes)}"
        here.mkdir()
        for kept in ("packages", "locks", "apt"):
            (here / kept).symlink_to(home() / kept)
        phx("build", "base", PHX_HOME=str(here))

    rows: list[tuple[str, float, float]] = []
    terminal.report("mmdebstrap, once")
    rows.append(("mmdebstrap, tree and tar, same packages", timed(peer), NONE))
    terminal.report("ours, cold, three times")
    rows.append(("phx build base, cold, to a bootable image", timed(ours, 3), 20))
    rows.append(("phx build base, nothing changed", timed(lambda: phx("build", "base"), 5), 0.3))
    recipes = fresh / "recipes"
    recipes.mkdir()
    (recipes / "base").symlink_to(library() / "base")
    numbers = iter(range(100))

    def write(package: str) -> None:
        (recipes / "changing").mkdir(exist_ok=True)
        text = RECIPE.format(package=package, line=f"{fresh.stat().st_mtime_ns}-{next(numbers)}")
        Path(recipes / "changing" / "recipe.yaml").write_text(text)

    def build() -> None:
        phx("build", "changing", PHX_RECIPES=str(recipes))

    write("hello")
    build()
    write("sl")
    build()
    write("hello")
    terminal.report("a change of the last step, three times")

    def change() -> None:
        write("hello")
        build()

    rows.append(("one line changed in the last step", timed(change, 3), 2))

    def add() -> None:
        for layer in (home() / "layers").glob("*/layer.json"):
            if '"install sl"' in layer.read_text():
                shutil.rmtree(layer.parent)
        write("sl")
        build()

    rows.append(("one small package added", timed(add, 3), 5))
    shutil.rmtree(fresh)
    show(terminal, rows)
