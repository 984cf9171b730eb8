"""The sweep on two real guests, with two steps instead of seven: less CPU carries less, and no guest is left."""

from __future__ import annotations

import itertools

import pytest

from cluster.calibrate import sweep
from cluster.calibrate.curve import DIRECTIONS
from cluster.site import Site
from tests.vm.conftest import Phx

pytestmark = pytest.mark.vm


def test_less_cpu_carries_less_and_uses_no_more_than_it_may(
    image: Phx, sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "STEPS", (1000, 100))
    monkeypatch.setattr(sweep, "SETTLE", 1.0)
    monkeypatch.setattr(sweep, "MEASURE", 1.5)
    site = Site(image.home)
    said: list[str] = []
    found = sweep.calibrate(site, site.ledger.host(sandbox), said.append)
    site.ledger.close()
    for direction in DIRECTIONS:
        whole, cut = found.sweeps[direction]
        assert cut.used <= 100 * 1.2, "the cap held, the emulator included"
        assert cut.bits * 2 < whole.bits and cut.used < whole.used
        assert cut.host is not None and cut.host > 0
        line = found.curve(direction).points
        assert all(a < b for a, b in itertools.pairwise(line))
    assert found.idle < 200
    assert sum("Mbit/s" in line for line in said) == 4
    assert sweep.CLUSTER not in {row["cluster"] for row in image.nodes().values()}
