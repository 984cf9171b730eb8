"""What every test stands on: golden files, and a wall between the fast tests and the machine.

A fast test starts no process and uses no network: what would do it raises instead. Tests marked vm, xen, services or
root are let through; those marked `process` may start processes and still have no network.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cluster.hosts.local import Here
from cluster.hosts.reach import Space

GOLDEN = Path(__file__).parent / "golden"
SLOW = ("vm", "xen", "services", "root")
WALL = "fast tests start no process and use no network"

# A suite started in the background inherits an ignored SIGINT, and so would every phx that it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time: a red test is red for everybody, and nothing is kept between runs.
settings.register_profile("fast", max_examples=60, deadline=None, database=None, derandomize=True)
settings.load_profile("fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden/ with what comes out"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A fast test that waits for what never comes ends soon; the limit in pyproject.toml is for those that boot."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in SLOW):
            item.add_marker(pytest.mark.timeout(90))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare a text with tests/golden/NAME. A missing file is written, and the test fails all the same."""

    def compare(
        name: str, text: str, hint: str = "when it is meant: pytest --update-golden"
    ) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            pytest.fail(
                f"tests/golden/{name} was missing; it is written now: read it, then run again"
            )
        assert text == path.read_text(), f"differs from tests/golden/{name}; {hint}"

    return compare


@pytest.fixture(autouse=True)
def wall(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """The methods are replaced, not the names: `from subprocess import Popen` meets the wall too."""

    def marked(*names: str) -> bool:
        return any(request.node.get_closest_marker(name) for name in names)

    def refuse(*_args: Any, **_more: Any) -> Any:
        raise AssertionError(WALL)

    if marked(*SLOW):
        yield
        return
    # What a test forgets to place must not land among what was really made.
    monkeypatch.setenv("PHX_HOME", str(tmp_path_factory.getbasetemp() / "forgotten-home"))
    monkeypatch.setattr(
        Here, "space", lambda _: Space(100 << 30, 0)
    )  # not how full this machine's disk is
    if not marked("process"):
        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        monkeypatch.setattr(os, "posix_spawn", refuse)
        monkeypatch.setattr(os, "fork", refuse)
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, real: Any = real) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                raise AssertionError(WALL)
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)
    yield
