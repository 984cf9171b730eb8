"""A tree of 4 GiB, built where there are 2 GiB of memory, page cache included, and no swap."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from builder.terminal import Terminal, library
from tests import narrow
from tests.bench import NONE, PHX, fresh_home, show, timed

FILES, EACH = 2000, 2300000
SIZE = 2 << 30
RECIPE = f"""name: large
version: '1'
summary: for the bench
from: base
size: 6G
run:
  - name: fill it
    script: |
      mkdir /srv/data
      for n in $(seq {FILES}); do head -c {EACH} /dev/urandom > /srv/data/$n; done
"""


def measure(terminal: Terminal) -> None:
    """Takes 10 GiB of disk for a while."""
    if os.geteuid() != 0:
        sys.exit("a cgroup is made: run it as root (make bench uses sudo)")
    here = fresh_home("memory")
    recipes = here / "recipes"
    (recipes / "large").mkdir(parents=True)
    (recipes / "large" / "recipe.yaml").write_text(RECIPE)
    (recipes / "base").symlink_to(library() / "base")
    env = {**os.environ, "PHX_HOME": str(here), "PHX_RECIPES": str(recipes)}
    with narrow.memory(SIZE) as group:

        def build() -> None:
            line = f"echo $$ > {group}/cgroup.procs; exec {PHX} build large"
            subprocess.run(["sh", "-c", line], env=env, check=True, capture_output=True)

        terminal.report(f"a tree of {FILES * EACH >> 20} MiB in {SIZE >> 20} MiB, once")
        seconds = timed(build)
        ended = narrow.killed(group)
    shutil.rmtree(here)
    what = f"{FILES * EACH / 2**30:.1f} GiB tree in {SIZE / 2**30:.1f} GiB of memory, {ended} processes killed"
    show(terminal, [(what, seconds, NONE)])
