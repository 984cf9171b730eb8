"""Our own unpacking against mmdebstrap, the oracle: from the same locked packages the same system, but for a list."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from builder import acts, line, plan
from builder.choice import Chosen
from builder.layers import LayerStore
from builder.steps import Bootstrap
from tests.vm.conftest import REPO, Phx
from tests.vm.trees import differences

pytestmark = pytest.mark.root

EXPECTED = (
    # what mmdebstrap copies from the host or leaves for booting without devtmpfs
    r"/dev/.*", r"/etc/hostname", r"/etc/resolv\.conf", r"/etc/fstab", r"/run/lock(/subsys)?",
    # made anew by each run of a maintainer script; the seal removes them
    r"/etc/ssh/ssh_host_.*", r"/etc/machine-id", r"/var/lib/dbus/machine-id",
    # old copies and caches, which the seal removes
    r"/etc/(passwd|shadow|group|gshadow)-", r"/var/lib/dpkg/[a-z]+-old", r"/var/cache/debconf/.*-old",
    r"/var/cache/ldconfig/aux-cache", r"/var/log/.*", r"/var/lib/apt/.*", r"/var/cache/apt/.*",
    # dpkg's own memory of how often it was called
    r"/var/lib/dpkg/(arch|available|lock|lock-frontend|triggers/Lock|triggers/Unincorp)",
    # the order in which the shells were configured
    r"/etc/shells", r"/var/lib/shells\.state",
)  # fmt: skip


@pytest.mark.parametrize("name", ["base"])
def test_equal_to_mmdebstraps_tree(image: Phx, tmp_path: Path, name: str) -> None:
    shop = line.Line(image.home, REPO / "recipes", lambda _: None)
    folder = REPO / "recipes" / name
    flat = shop.load(Chosen(name, folder), {})
    found, _ = shop.locks.facts(flat, folder)
    step = plan.plan(flat, found).steps[0]
    assert isinstance(step, Bootstrap)
    store = LayerStore(tmp_path / "layers")
    log = tmp_path / "log"
    with store.begin(()) as one, store.begin(()) as two:
        acts.execute(step, one, shop.caches, log, step.epoch)
        acts.oracle(step, two, shop.caches, log)
        differ = differences(one.tree, two.tree)
        odd = {p: d for p, d in differ.items() if not any(re.fullmatch(e, p) for e in EXPECTED)}
        assert odd == {}
        shells = [sorted((c.tree / "etc/shells").read_text().split()) for c in (one, two)]
        assert shells[0] == shells[1]
        assert one.inside("dpkg --audit", timeout=60).text == ""
        # conffile and file digests as dpkg knows them; documentation that was excluded is missing on purpose
        said = one.inside("dpkg --verify || true", timeout=120).text.splitlines()
        wrong = [
            row
            for row in said
            if "missing" not in row
            or not re.search(r" /usr/share/(doc|man|info|locale|lintian)/", row)
        ]
        assert wrong == []
        status = subprocess.run(
            ["diff", one.tree / "var/lib/dpkg/status", two.tree / "var/lib/dpkg/status"],
            capture_output=True,
            text=True,
        )
        assert status.stdout == ""
