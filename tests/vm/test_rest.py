"""A cluster that stood still, in memory or on its host's disk, goes on where it was, and its clocks are right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import ONE, Phx, cluster_text

pytestmark = pytest.mark.vm

NAME = "rest"


@pytest.fixture(scope="module")
def standing(image: Phx, sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phx]:
    """One node that is ready, in which a program counts."""
    path: Path = tmp_path_factory.mktemp(NAME) / f"{NAME}.yaml"
    path.write_text(cluster_text(NAME, ONE.format(image="base"), network="10.85.0.0/24"))
    image.run("up", path, "--host", sandbox)
    count = "n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.2; done"
    inside(image, f"setsid sh -c '{count}' >/dev/null 2>&1 </dev/null &")
    yield image
    image.run("down", NAME, status=None)


def inside(phx: Phx, command: str) -> str:
    return phx.run("ssh", f"{NAME}/one-1", "--", command).stdout.strip()


def machine(phx: Phx) -> str:
    return phx.nodes()["one-1"]["machine"]


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("suspend", "off")])
def test_it_goes_on_where_it_was(standing: Phx, verb: str, state: str) -> None:
    boot = inside(standing, "cat /proc/sys/kernel/random/boot_id")
    before = int(inside(standing, "cat /run/count"))
    standing.run(verb, NAME)
    assert machine(standing) == state
    time.sleep(6)
    standing.run("resume", NAME)
    assert (machine(standing), standing.nodes()["one-1"]["stage"]) == ("running", "ready")
    assert inside(standing, "cat /proc/sys/kernel/random/boot_id") == boot, "it did not boot"
    assert int(inside(standing, "cat /run/count")) > before, "its program runs"
    off = time.time() - float(inside(standing, "date +%s.%N"))
    assert abs(off) < 3, "six seconds and more it stood still"


def test_one_that_runs_is_left_alone(standing: Phx) -> None:
    assert "every node runs" in standing.run("resume", NAME).stdout
