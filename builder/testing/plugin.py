"""What pytest is given for tests of appliances: fixtures `host`, `peer`, `node`, `parameters`, and the marker `boot`.

It runs inside pytest, in a process of its own. `PHX_TEST` in the environment is its brief, as JSON:

    boot        whether the tests marked `boot` run, or all others
    tree        the appliance's tree, where no guest runs
    nodes       names of the running guests, the appliance's own first
    ssh         the ssh_config that leads to them, and a folder for its sockets
    parameters  the recipe's, by name
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from typing import Any

import pytest
import testinfra


@functools.cache
def _brief() -> dict[str, Any]:
    return dict(json.loads(os.environ["PHX_TEST"]))


def pytest_configure(config: pytest.Config) -> None:
    # The folder is ours; in the tree, and on a guest, there is none of that name.
    tempfile.gettempdir()
    os.environ.pop("TMPDIR", None)
    config.addinivalue_line("markers", "boot: on a running guest; without it, on the tree")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    booted = [item for item in items if item.get_closest_marker("boot")]
    static = [item for item in items if not item.get_closest_marker("boot")]
    mine, others = (booted, static) if _brief()["boot"] else (static, booted)
    items[:] = mine
    if others:
        config.hook.pytest_deselected(items=others)
    # Who starts guests must know whether any are wanted, and how many.
    wanted = {name for item in booted for name in getattr(item, "fixturenames", ())}
    told = {"boot": len(booted), "peer": "peer" in wanted}
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line(f"phx: {json.dumps(told)}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    # What testinfra does inside says nothing to whoever wrote the test.
    if call.excinfo is not None:
        shown = call.excinfo.traceback.filter(lambda entry: "site-packages" not in str(entry.path))
        call.excinfo.traceback = shown or call.excinfo.traceback


@functools.cache
def _host(name: str) -> Any:
    if not _brief()["boot"]:
        return testinfra.get_host(_brief()["tree"], connection="chroot")
    config, sockets = _brief()["ssh"]
    return testinfra.get_host(
        name, connection="ssh", ssh_config=config, controlpath=f"{sockets}/{name}", timeout=30
    )


def _node(name: str) -> Any:
    if name not in _brief()["nodes"]:
        pytest.fail(f"no node '{name}': there are {', '.join(_brief()['nodes']) or 'none'}", False)
    return _host(name)


@pytest.fixture(scope="session")
def host() -> Any:
    """The appliance: its tree, or its guest."""
    return _host(_brief()["nodes"][0] if _brief()["boot"] else "")


@pytest.fixture(scope="session")
def peer() -> Any:
    """Another guest on the appliance's network, for tests marked `boot`."""
    if not _brief()["boot"]:
        pytest.fail("on a tree there is no peer: mark the test with @pytest.mark.boot", False)
    if len(_brief()["nodes"]) < 2:
        pytest.fail("the cluster of these tests has one node: give it another", False)
    return _host(_brief()["nodes"][1])


@pytest.fixture(scope="session")
def node() -> Any:
    """node("head-1") is the guest of that name, where the recipe's tests have a cluster of their own."""
    return _node


@pytest.fixture(scope="session")
def parameters() -> dict[str, Any]:
    """The recipe's parameters by name, as the image was built with them."""
    return dict(_brief()["parameters"])
