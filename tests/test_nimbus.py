"""The adapter for appliances of the Nimbus context agent: which of their scripts run, with what, in which order."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

import pytest

from contextualize import agent

pytestmark = pytest.mark.process

SOURCE = Path(__file__).parent.parent / "recipes" / "nimbus" / "nimbus.py"
SEED = {
    "cluster": "farm", "node": "head-1", "role": "head",
    "nics": [{"mac": "52:54:00:00:00:01", "address": "10.7.0.1/24"},
             {"mac": "52:54:00:00:00:02", "address": "192.168.9.1/16"}],
}  # fmt: skip
KEY = b"\x00not a text\xff"
SCRIPTS = (
    "1-ipandhost/head", "1-ipandhost/worker", "1-ipandhost/torqueslave", "2-thishost/publicnic",
    "2-thishost/localnic", "3-data/motd", "3-data/farm_key", "3-data/gone", "4-restarts/worker",
    "4-restarts/torqueslave", "5-thishost-finalize/publicnic",
)  # fmt: skip


def peers(workers):
    found = [("head-1", "head", "10.7.0.1")]
    found += [(f"worker-{n}", "worker", f"10.7.0.{n + 1}") for n in range(1, workers + 1)]
    return [{"name": n, "role": r, "address": a} for n, r, a in found]


def document(workers=2, **data):
    fact = {
        "one": True,
        "secret": True,
        "values": {"head-1": {"data": base64.b64encode(KEY).decode()}},
    }
    return {"peers": peers(workers), "data": {"motd": "hello", **data}, "facts": {"farm_key": fact}}


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A root with scripts that note how they were called; node(document, event) gives the calls of one hook."""
    log = tmp_path / "log"
    for name in SCRIPTS:
        path = tmp_path / "opt/nimbus/ctx-scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n')
        path.chmod(0o755)
    (tmp_path / "run/philoxenia").mkdir(parents=True)
    spec = importlib.util.spec_from_file_location("nimbus", SOURCE)
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    context = tmp_path / "run/philoxenia/context"
    told = tmp_path / "run/philoxenia/context.json"
    monkeypatch.setenv("PHX_DIR", str(context))
    monkeypatch.setenv("PHX_CONTEXT", str(told))

    def run(given, event):
        log.write_text("")
        agent.lay_out(SEED, given, str(context))
        told.write_text(json.dumps(SEED))
        monkeypatch.setenv("PHX_EVENT", event)
        hook.main(str(tmp_path))
        return log.read_text().replace(f"{context}/", "").splitlines()

    run.top = tmp_path / "opt/nimbus/ctx-scripts"
    return run


JOINED = [
    "1-ipandhost/head 10.7.0.1 head-1 head-1.farm",
    "1-ipandhost/worker 10.7.0.2 worker-1 worker-1.farm",
    "1-ipandhost/worker 10.7.0.3 worker-2 worker-2.farm",
    "2-thishost/publicnic 10.7.0.1 head-1 head-1.farm",
    "2-thishost/localnic 192.168.9.1 head-1 head-1.farm",
    "3-data/motd data/motd",
    "3-data/farm_key facts/farm_key",
    "4-restarts/worker",
    "5-thishost-finalize/publicnic 10.7.0.1 head-1 head-1.farm",
]


def test_a_join_runs_all_in_the_order_of_nimbus(node):
    assert node(document(), "join") == JOINED
    assert node(document(), "join") == JOINED, "each boot anew"


def test_a_change_runs_only_what_is_new(node):
    node(document(), "join")
    assert node(document(), "change") == []
    assert node(document(3), "change") == [
        "1-ipandhost/worker 10.7.0.4 worker-3 worker-3.farm",
        "4-restarts/worker",
        "5-thishost-finalize/publicnic 10.7.0.1 head-1 head-1.farm",
    ]
    assert node(document(3, motd="good bye"), "change")[0] == "3-data/motd data/motd"
    assert node(document(2, motd="good bye"), "change")[0] == "4-restarts/worker", "one left"


def test_roles_and_networks_go_by_the_names_that_data_gives_them(node):
    said = node(
        document(nimbus_roles="worker torqueslave worker\n", nimbus_nics="localnic"), "join"
    )
    assert "1-ipandhost/torqueslave 10.7.0.2 worker-1 worker-1.farm" in said
    assert "1-ipandhost/worker 10.7.0.3 worker-2 worker-2.farm" in said
    assert "2-thishost/localnic 10.7.0.1 head-1 head-1.farm" in said
    assert not [line for line in said if "publicnic" in line]
    assert [line for line in said if line.startswith("4-")] == [
        "4-restarts/torqueslave", "4-restarts/worker",
    ]  # fmt: skip


def test_data_comes_as_its_very_bytes(node):
    (node.top / "3-data/farm_key").write_text('#!/bin/sh\ncp "$1" "$0.got"\n')
    node(document(), "join")
    assert (node.top / "3-data/farm_key.got").read_bytes() == KEY


def test_a_script_that_fails_ends_the_hook_and_is_tried_again(node, capsys):
    good = (node.top / "3-data/motd").read_text()
    (node.top / "3-data/motd").write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(SystemExit) as end:
        node(document(), "join")
    assert end.value.code == 7
    assert capsys.readouterr().out.endswith("3-data/motd: exit 7\n")
    (node.top / "3-data/motd").write_text(good)
    assert node(document(), "change") == JOINED, "nothing is taken for done"
