"""What may break while a cluster comes up, as a table: our side, the agents, the nodes, what they say, the disks.

Real agents in processes of their own, real sockets, the real wait (tests/lab.py). In each case: nothing hangs past its
deadline, nothing is lost, and the message names the node and the cause. Guests show the rest: tests/vm/test_broken.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from builder.errors import EnvironmentLacks, TimedOut, WorkFailed
from cluster import wait
from contextualize import broker as brokers
from contextualize.message import encode
from tests.lab import TEXT, Lab, until

pytestmark = pytest.mark.process
KEY = 'printf secret > "$PHX_PROVIDE/key"'
NEEDS = "requires: [{fact: key}]"
GATED = TEXT.replace(NEEDS, f"{NEEDS}\n      healthy: [{{command: test -e GATE/healthy}}]")
GIVES = "to: [worker]}]"
WAITING = TEXT.replace(GIVES, f"{GIVES}\n      requires: [{{fact: id, of: all, before: healthy}}]")
WAITING = WAITING.replace(NEEDS, f"{NEEDS}\n      provides: [{{name: id, command: echo 1}}]")
SPOKEN = TEXT.replace("{name: key,", "{name: key, command: head -c 40 /dev/urandom,")
LONG = "files: [{path: /etc/first, content: x}, {path: /etc/big, content: \"{{ 'x' * 200000 }}\"}, "
BIG = TEXT.replace("files: [", LONG)


@pytest.fixture
def lab(tmp_path, monkeypatch, request):
    """A head that gives a key to two workers; every hook notes that it ran. Gates hold what waits for them."""
    monkeypatch.setattr(brokers, "RETRY", 0.01)
    monkeypatch.setattr(wait, "LOOK", 0.05)
    text = getattr(request, "param", TEXT).replace("GATE", str(tmp_path))
    found = Lab(tmp_path, text)
    for node in found.nodes:
        found.hook(node, f'echo "$PHX_EVENT" >> {tmp_path}/{node}/ran', name="01-note")
    found.hook("head-1", KEY)
    yield found
    found.close()


def gate(lab, node, name):
    """Its hook waits until the gate is opened. It ends by itself: a hook outlives the agent that is killed."""
    wait = (
        f"for _ in $(seq 1500); do [ -e {lab.folder}/{name} ] && exit 0; sleep 0.02; done; exit 1"
    )
    lab.hook(node, wait, name="05-gate")


def ran(lab, node):
    return (lab.folder / node / "ran").read_text().split()


def healthy(rows):
    return {r.stage for r in rows.values()} == {"healthy"}


# our side


@pytest.mark.parametrize("lab", [GATED], indirect=True)
@pytest.mark.parametrize("stage", ["defined", "booted", "contextualized", "healthy"])
def test_our_side_is_killed_and_another_goes_on(lab, stage):
    gate(lab, "head-1", "given")
    gate(lab, "worker-2", "second")
    if stage != "defined":
        lab.boot()
    first = lab.site()
    if stage in ("contextualized", "healthy"):
        (lab.folder / "given").touch()
    if stage == "healthy":
        (lab.folder / "healthy").touch()
    if stage != "defined":
        until(lambda: f"worker-1 {stage}" in lab.said(), what=lab.said)
    os.kill(first.pid, signal.SIGKILL)
    first.join(5)
    for name in ("given", "second", "healthy"):
        (lab.folder / name).touch()
    lab.boot()
    assert healthy(lab.wait())
    assert (lab.root("worker-2") / "etc/key").read_text() == "secret"
    assert [ran(lab, node) for node in lab.nodes] == [["join"]] * 3, "no hook ran twice"


def test_our_sides_disk_is_full(lab):
    lab.boot()
    with lab.ledger._sql() as sql:
        pages = sql.exec_driver_sql("PRAGMA page_count").scalar()
        sql.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def much(rows):
        lab.ledger.tell(notes=[("demo", r.name, "x" * 20_000) for r in rows])

    with pytest.raises(
        EnvironmentLacks, match=r"the ledger .*ledger.sqlite cannot be used: .*full"
    ):
        lab.wait(tell=much)
    with lab.ledger._sql() as sql:
        sql.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert healthy(lab.wait(tell=much))
    assert ran(lab, "worker-1") == ["join"]


# agents


@pytest.mark.parametrize("lab", [GATED], indirect=True)
@pytest.mark.parametrize("gated", ["given", "hook", "healthy", ""])
def test_an_agent_is_killed_and_its_unit_starts_another(lab, gated):
    """While it waits for a fact, runs a hook, waits for its health, is healthy. Our side had asked the dead one."""
    for name, node in (("given", "head-1"), ("hook", "worker-1"), ("second", "worker-2")):
        gate(lab, node, name)
    order = ["given", "hook", "healthy", ""]
    for name in order[: order.index(gated)]:
        (lab.folder / name).touch()
    lab.boot()
    site = lab.site()
    if gated == "hook":
        until(lambda: (lab.folder / "worker-1/ran").exists(), what=lab.said)
    else:
        stage = {"given": "booted", "healthy": "contextualized", "": "healthy"}[gated]
        until(lambda: f"worker-1 {stage}" in lab.said(), what=lab.said)
    lab.kill("worker-1")
    lab.start("worker-1")
    for name in ("given", "hook", "healthy", "second"):
        (lab.folder / name).touch()
    site.join(60)
    assert lab.said()[-1] == "ended healthy"
    assert (lab.root("worker-1") / "etc/key").read_text() == "secret"


@pytest.mark.parametrize("lab", [SPOKEN], indirect=True)
def test_an_agent_that_was_killed_gives_the_same_fact_again(lab):
    gate(lab, "worker-2", "second")
    lab.boot()
    site = lab.site()
    until(lambda: "worker-1 healthy" in lab.said(), what=lab.said)
    lab.kill("head-1")
    lab.start("head-1")
    until(lambda: "healthy" in lab.console("head-1").rpartition("booted")[2], what=lab.said)
    (lab.folder / "second").touch()
    site.join(60)
    assert lab.said()[-1] == "ended healthy"
    keys = {(lab.root(f"worker-{n}") / "etc/key").read_bytes() for n in (1, 2)}
    assert len(keys) == 1 and len(keys.pop()) == 40


def test_a_hook_of_a_dead_agent_does_not_run_beside_its_successors(lab):
    noted = lab.folder / "pid"
    lab.hook("head-1", f"echo $$ > {noted}; {KEY}; exec sleep 60", name="20-long")
    lab.boot("head-1")
    known = lab.root("head-1") / "run/philoxenia/running"
    until(
        lambda: noted.exists() and known.exists() and noted.read_text().strip() in known.read_text()
    )
    process = Path("/proc", noted.read_text().strip(), "stat")
    lab.kill("head-1")
    lab.hook("head-1", KEY, name="20-long")
    lab.start("head-1")
    until(lambda: not process.exists() or " Z " in process.read_text())


# nodes


def reached(*wanted):
    """Whether the nodes are at the stages: what a deadline waits for."""
    return lambda w: all(w.ways[node].row.stage == stage for node, stage in wanted)


def test_a_node_that_boots_and_hangs(lab):
    gate(lab, "head-1", "given")
    lab.boot()

    def hang(rows):
        if any(r.name == "worker-1" and r.stage == "booted" for r in rows):
            os.kill(lab.agents["worker-1"].pid, signal.SIGSTOP)
            (lab.folder / "given").touch()

    with pytest.raises(
        TimedOut, match=r"1 of 3 nodes are not ready .*\nworker-1 hung after stage booted; the end"
    ):
        lab.wait(tell=hang, late=reached(("head-1", "healthy"), ("worker-2", "healthy")))
    os.kill(lab.agents["worker-1"].pid, signal.SIGCONT)
    assert healthy(lab.wait()), "what hung goes on with what it was told"


def test_a_node_that_dies_after_it_was_ready(lab):
    gate(lab, "worker-2", "second")
    lab.boot()

    def die(rows):
        if any(r.name == "worker-1" and r.stage == "healthy" for r in rows):
            xml, _ = lab.hypervisor.domains["demo.worker-1"]
            lab.hypervisor.domains["demo.worker-1"] = (xml, "crashed")

    with pytest.raises(
        WorkFailed, match="worker-1 failed: its machine is crashed after stage healthy"
    ):
        lab.wait(tell=die)


@pytest.mark.parametrize("lab", [WAITING], indirect=True)
def test_a_worker_that_dies_while_the_head_waits_for_it(lab):
    gate(lab, "worker-2", "second")
    lab.boot()

    def die(rows):
        if any(r.name == "worker-1" and r.stage == "healthy" for r in rows):
            lab.kill("worker-2")
            del lab.hypervisor.domains["demo.worker-2"]

    with pytest.raises(WorkFailed, match="worker-2 failed: its machine is gone after stage booted"):
        lab.wait(tell=die)


@pytest.mark.parametrize("lab", [WAITING], indirect=True)
def test_whom_the_head_waits_for_is_named(lab):
    gate(lab, "worker-2", "second")
    lab.boot()
    hung = r"head-1 hung after stage contextualized; it waits for id of worker \(1 of 2\)"
    with pytest.raises(TimedOut, match=hung):
        lab.wait(late=reached(("head-1", "contextualized"), ("worker-1", "healthy")))


# what nodes say


class Said:
    """Somebody at a node's end of the channel who is no agent."""

    def __init__(self, lab, node):
        self.lab, self.node = lab, node
        self.port = socket.socket(socket.AF_UNIX)
        self.port.connect(str(lab.folder / node / "guest"))

    def say(self, data):
        with contextlib.suppress(OSError):  # nobody has to take it
            self.port.sendall(data)

    def line(self, seq, **told):
        body = {"node": self.node, "boot": "b", "seq": seq, "uptime": 1.0 / seq, **told}
        return encode(body, self.lab.nodes[self.node].identity.token)


@pytest.mark.parametrize("lab", [TEXT.replace("count: 2", "count: 6")], indirect=True)
def test_who_never_boots_and_who_says_what_no_agent_says(lab):
    """Each in its own way; one message names them all, and the deadline is kept."""
    seed = lab.folder / "worker-3" / "seed.json"
    mine, other = (lab.nodes[n].identity.token.reveal().decode() for n in ("worker-3", "worker-1"))
    seed.write_text(seed.read_text().replace(mine, other))
    lab.boot("head-1", "worker-1", "worker-3")
    another = {"node": "head-1", "boot": "b", "seq": 1, "uptime": 1.0, "stage": "healthy"}
    data = {
        "worker-4": encode(another, lab.nodes["worker-4"].identity.token),
        "worker-5": b"x" * (2 << 20),
        "worker-6": bytes(range(256)) * 40,
    }
    said = [Said(lab, node) for node in data]
    speaking = []

    def say(_rows):  # somebody is there now
        if not speaking:
            for one in said:
                speaking.append(threading.Thread(target=one.say, args=(data[one.node],)))
                speaking[-1].start()

    with pytest.raises(TimedOut) as caught:
        good = reached(("head-1", "healthy"), ("worker-1", "healthy"))
        lab.wait(tell=say, late=lambda w: len(w.refused) == 4 and good(w))
    text = str(caught.value)
    assert text.startswith("5 of 7 nodes are not ready after 0 s\n")
    for node, what in (
        ("worker-2", "the end of its console:"),
        ("worker-3", "worker-3 sent a report with a wrong token"),
        ("worker-4", "worker-4 calls itself 'head-1'"),
        ("worker-5", "worker-5 sent [0-9]+ bytes without an end of line"),
        ("worker-6", "worker-6 sent something that is not a report"),
    ):
        assert re.search(
            f"^{node} hung after stage defined; (it waits for .*; )?{what}", text, re.M
        ), text
    for thread, one in zip(speaking, said, strict=True):
        one.port.shutdown(socket.SHUT_RDWR)
        thread.join(2)
        one.port.close()


def test_one_fact_with_two_values(lab):
    """Reports count in the order of their numbers, whatever their times say."""
    lab.boot("worker-1", "worker-2")
    head = Said(lab, "head-1")

    def say(rows):
        if any(r.stage == "booted" for r in rows):
            for seq, value in ((1, "MQ=="), (2, "MQ=="), (3, "Mg==")):
                head.say(head.line(seq, fact="key", value=value))

    started = time.monotonic()
    with pytest.raises(WorkFailed, match="head-1 failed: it gave key twice, with different values"):
        lab.wait(tell=say)
    assert time.monotonic() - started < 50
    head.port.close()


def test_every_report_twice(lab):
    """An agent repeats all for whoever asks; each is told of once."""
    told = []
    lab.boot()
    assert healthy(lab.wait(tell=told.extend))
    for node in lab.nodes:
        stages = [r.stage for r in told if r.name == node]
        assert len(stages) == len(set(stages))
    before = len(told)
    assert healthy(lab.wait(tell=told.extend)) and len(told) == before, "nor by the next"


# hooks and disks


@pytest.mark.parametrize("lab", [BIG], indirect=True)
def test_a_disk_that_is_full(lab):
    lab.boot("head-1", "worker-1")
    lab.boot("worker-2", RLIMIT_FSIZE=100_000)
    with pytest.raises(
        WorkFailed, match=r"worker-2 failed: OSError: \[Errno \d+\] .*: '.*/etc/big'"
    ):
        lab.wait()
    assert os.listdir(lab.root("worker-2") / "etc") != [] and not list(
        lab.root("worker-2").rglob("*.philoxenia")
    )
    assert not (lab.root("worker-2") / "etc/first").exists(), "all or nothing"
    lab.kill("worker-2")
    lab.start("worker-2")  # there is room again
    assert healthy(lab.wait(again=["worker-2"]))


def test_hooks_that_talk_much_in_bytes_and_leave_daemons(lab):
    lab.hook("head-1", "yes | head -c 10000000", name="20-much")
    lab.hook("worker-1", r"printf '\377\000\033]0;owned\007\033[2J\303'", name="20-bytes")
    lab.hook("worker-2", f"sleep 60 & echo $! > {lab.folder}/daemon", name="20-daemon")
    lab.boot()
    started = time.monotonic()
    assert healthy(lab.wait()) and time.monotonic() - started < 50
    os.kill(int((lab.folder / "daemon").read_text()), signal.SIGKILL)


def test_a_hook_that_fails_in_bytes_drives_no_terminal(lab):
    lab.hook("worker-1", r"printf '\377\033]0;owned\007\033[2Jno disk\n'; exit 3", name="20-bytes")
    lab.boot()
    with pytest.raises(WorkFailed) as caught:
        lab.wait()
    assert str(caught.value).endswith("20-bytes: exit 3\n    | \N{REPLACEMENT CHARACTER}no disk")


def test_a_hook_that_never_ends(lab):
    lab.hook("worker-1", "echo begun; while :; do sleep 0.1; done", name="20-long")
    seed = lab.folder / "worker-1" / "seed.json"
    seed.write_text(seed.read_text().replace('"hook_limit": 60', '"hook_limit": 1'))
    lab.boot()
    with pytest.raises(WorkFailed, match=r"worker-1 failed: hook .*/20-long: took longer than 1 s"):
        lab.wait()
