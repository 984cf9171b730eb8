"""One emulated Xen host for the whole tier, in the home that the vm tier uses: layers and images are there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import REPO, Phx

TIMEOUT = 900
"""Seconds for what boots the host: 22 on a quiet machine."""


@pytest.fixture(scope="session")
def home() -> Path:
    if os.geteuid() != 0:
        pytest.fail("this tier builds layers as root: run it as root (make test uses sudo)")
    return REPO / "artifacts" / "test"


@pytest.fixture(scope="session")
def xen_image(home: Path) -> Phx:
    """xen-host is in the catalog."""
    phx = Phx(home)
    phx.run("build", "xen-host", timeout=TIMEOUT)
    return phx


@pytest.fixture(scope="session")
def xen(xen_image: Phx) -> Iterator[str]:
    """The name of a Xen host that runs; its end takes all guests with it."""
    name = f"x{os.getpid()}"
    try:
        xen_image.run("host", "up", "--xen", name, "--memory", "5G", timeout=TIMEOUT)
        yield name
    finally:
        xen_image.run("host", "down", name, "--force", status=None)
