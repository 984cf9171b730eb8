"""What guests ask for from inside: within their owner's limits, proved by their own token, answered once. No guest."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import json
import socket
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.document import parse
from builder.errors import InputError, explain
from cluster import launch
from cluster.contract import requests
from cluster.contract.negotiable import bounds, within
from cluster.contract.renegotiate import Whom
from cluster.spec import checked
from contextualize import agent
from contextualize.broker import Broker
from contextualize.identity import Secret, derive
from contextualize.message import BadMessage, Request, decode
from tests.invented import CLUSTER
from tests.promised import Killed, ask, marks, running, up

NOW = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
ALLOWED = "    negotiable: {cpu.guarantee: 0.2..0.8, network.limit: ..50Mbit}\n"
FILE = CLUSTER.replace("  worker:\n", "  worker:\n" + ALLOWED)


def quiet(_):
    pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    with running(tmp_path, monkeypatch) as found:
        up(found, FILE)
        yield found


def request(*words, name="0" * 16, node="worker-1"):
    return Request(node, "b", 1, 1.0, name, words)


def decided(site, *words, name="0" * 16, seconds=0, whom=None):
    spec, _ = launch.kept(site, "demo")
    whom = whom or Whom("demo", "worker", "worker-1")
    now = NOW + datetime.timedelta(seconds=seconds)
    return requests.decide(site, spec, whom, request(*words, name=name), now, quiet)


# the owner's limits


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("cpu.limit: '0.2'", "cpu.limit: '0.2' is not LOW..HIGH"),
        ("cpu.limit: 0.8..0.2", "cpu.limit: '0.8..0.2' leaves nothing to ask for"),
        ("cpu.limit: 1..", "cpu.limit: '1..' is not LOW..HIGH"),
        ("cpu.limt: 0.2..1", "cpu.limt: unknown key 'cpu.limt'"),
        ("disk.size: 1G..2G", "disk.size: a disk keeps its size while its node lives"),
        ("memory: 256..512", "memory: '512' is not a size"),
        ("{memory: 1G..2G, memory.min: 1G..2G}", "memory.min: memory.min is said twice"),
    ],
)
def test_what_is_wrong_with_limits_is_told_by_place(written, said):
    value = written if written.startswith("{") else f"{{{written}}}"
    text = CLUSTER.replace("  worker:\n", f"  worker:\n    negotiable: {value}\n")
    with pytest.raises(InputError) as caught:
        checked(parse(text, "demo.yaml"))
    assert f"roles.worker.negotiable.{said}" in explain(caught.value), explain(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        bounds({"cpu.limit": "1", "memory": "1G..y", "magic": "1..2"})
    assert len(caught.value.problems) == 3


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 1000))
def test_only_what_lies_within_is_wanted(low, more, asked):
    allowed = {"cpu.limit": f"{low / 100}..{(low + more) / 100}"}
    if low <= asked <= low + more:
        assert within(allowed, [f"cpu.limit={asked / 100}"]) == {"cpu_limit": asked * 10}
    else:
        with pytest.raises(InputError, match="is outside the limits"):
            within(allowed, [f"cpu.limit={asked / 100}"])


def test_what_is_not_named_cannot_be_asked_for_and_a_key_for_two_is_held_for_both():
    allowed = {"network.in.limit": "..50Mbit"}
    with pytest.raises(InputError) as caught:
        within(allowed, ["network.limit=20Mbit"])
    assert explain(caught.value) == (
        "error: network.out.limit: cannot be asked for from inside\n"
        "  hint: what may be asked for: network.in.limit ..50Mbit"
    )


# granted or refused


def test_granted_it_is_in_force_and_told_with_what_is_left(site):
    answer = decided(site, "cpu.guarantee=0.8", "network.limit=40Mbit")
    assert answer.granted and marks(site)["worker-1"].cpu_guarantee == 800
    assert answer.said.startswith("cpu.guarantee 0.5 -> 0.8; network.in.limit ")
    assert answer.said.endswith("left")
    assert marks(site)["worker-2"].cpu_guarantee == 500, "for itself alone"
    assert site.ledger.diary.requests("demo") == [answer]
    assert site.ledger.events("demo")[-1].what.startswith(
        "asked from inside for cpu.guarantee=0.8 network.limit=40Mbit: granted: "
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpu.guarantee=0.9"],
         "cpu.guarantee: is outside the limits hint: what may be asked for: cpu.guarantee 0.2..0.8, "
         "network.limit ..50Mbit"),
        (["memory=2G"], "memory.min: cannot be asked for from inside hint: what may be asked for: "),
        (["cpu.guarantee=lots"], "cpu.guarantee: 'lots' is not a number of cores"),
        (["network.limit=1Mbit"], "worker-1: network.in.guarantee would be above network.in.limit"),
    ],
)  # fmt: skip
def test_refused_with_the_reason_and_nothing_is_another(words, said, site):
    before = marks(site)
    answer = decided(site, *words)
    assert not answer.granted and answer.said.startswith(said), answer.said
    assert marks(site) == before


def test_no_room_is_told_with_what_is_left(site):
    site.ledger.put_host(replace(site.ledger.host("lab"), cpu=1800))
    ask(site, "demo/head", "cpu.guarantee=0.7")
    answer = decided(site, "cpu.guarantee=0.8")
    assert answer.said.startswith("worker-1 asks for 0.3 cores more than it has hint: lab has 0.1")


def test_who_asks_again_too_soon_is_told_when(site):
    decided(site, "cpu.guarantee=0.6", name="1" * 16)
    soon = decided(site, "cpu.guarantee=0.7", name="2" * 16, seconds=4)
    assert (soon.granted, soon.said) == (False, "it asked 4 s ago; ask again in 6 s")
    assert decided(site, "cpu.guarantee=0.7", name="3" * 16, seconds=11).granted
    assert [a.name[0] for a in site.ledger.diary.requests("demo")] == ["1", "3"]


def test_heard_again_it_is_answered_alike_and_made_once(site):
    first = decided(site, "cpu.guarantee=0.6")
    ask(site, "demo/worker-1", "cpu.guarantee=0.5")
    assert decided(site, "cpu.guarantee=0.6", seconds=99) == first
    assert marks(site)["worker-1"].cpu_guarantee == 500


def test_killed_before_the_answer_is_kept_it_is_granted_by_the_next(site):
    for fuse in range(6):
        site.bench.fuse = fuse
        word = f"cpu.guarantee=0.{2 + fuse}"
        with contextlib.suppress(Killed):
            decided(site, word, name=f"{fuse:016x}", seconds=100 * fuse)
        site.bench.fuse = -1
        assert decided(site, word, name=f"{fuse:016x}", seconds=100 * fuse + 50).granted
        assert marks(site)["worker-1"].cpu_guarantee == 200 + 100 * fuse


def test_a_guest_that_asks_without_end_fills_no_ledger(site):
    for n in range(30):
        decided(site, "magic=1", name=f"{n:016x}", seconds=20 * n)
    assert [int(a.name, 16) for a in site.ledger.diary.requests("demo")] == list(range(10, 30))


# over the channel


def line(token, **body):
    text = json.dumps({"node": "worker-1", "boot": "b", "seq": 1, "uptime": 1.0, **body})
    mac = hmac.new(token, text.encode(), hashlib.sha256).hexdigest()
    return json.dumps({"body": text, "mac": mac}).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"request": "x", "words": []}, "no name that a request may have"),
        ({"request": "0" * 16, "words": ["a\nb"]}, "asks for what nobody can read"),
        ({"request": "0" * 16, "words": ["a" * 65]}, "asks for what nobody can read"),
        ({"request": "0" * 16, "words": ["a=1"] * 33}, "asks for what nobody can read"),
        ({"request": "0" * 16, "words": [1]}, "without what it must say"),
        ({"request": "0" * 16}, "without what it must say"),
        ({"request": "0" * 16, "words": ["a=1"], "node": "worker-2"}, "calls itself 'worker-2'"),
    ],
)
def test_a_request_that_no_agent_sends_is_refused(body, said):
    with pytest.raises(BadMessage, match=said) as caught:
        decode(line(b"secret", **body), "worker-1", Secret(b"secret"))
    assert "secret" not in str(caught.value)


def test_with_the_token_of_another_node_nothing_is_heard():
    told = line(b"of worker-2", request="0" * 16, words=["cpu.guarantee=0.8"])
    with pytest.raises(BadMessage, match="with a wrong token"):
        decode(told, "worker-1", Secret(b"of worker-1"))


def test_from_a_program_in_the_guest_to_the_host_and_back(site, tmp_path, monkeypatch, capsys):
    """The agent's own code at one end of a socket, `phx tick`'s at the other."""
    row = site.ledger.cluster("demo")
    token = derive(row.secret, "demo", "worker-1").token
    channel = agent.Channel("worker-1", token.reveal().decode())
    path = tmp_path / "channel"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen(4)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    theirs, _ = door.accept()
                    theirs.setblocking(False)
                    with contextlib.suppress(OSError):
                        channel.converse(agent.Port(theirs.detach()))

        threading.Thread(target=serve, daemon=True).start()
        desk = agent.Desk(channel, str(tmp_path / "desk"), limit=20)
        desk.start()
        said = []
        asking = threading.Thread(
            target=lambda: said.append(agent.ask(["cpu.guarantee=0.8"], str(tmp_path / "desk")))
        )
        asking.start()
        monkeypatch.setattr(requests, "LISTEN", 0.3)

        listener = []
        one = Broker({"worker-1": (path, token)}, lambda said: listener[-1](said), lambda *_: None)

        @contextlib.contextmanager
        def broker(_site, _row, _spec, _roles, hear, opened):
            listener.append(hear)
            one.step(0)
            opened("worker-1")
            yield one, 0.3

        monkeypatch.setattr(requests, "_broker", broker)
        while not channel.kept:
            asking.join(0.01)
        (answer,) = requests.answer(site, NOW, quiet)
        asking.join(20)
        one.__exit__()
        door.close()
    assert len(listener) == 2, "the channel is let go while it is decided"
    assert answer.granted and said == [0]
    assert capsys.readouterr().out.startswith("cpu.guarantee 0.5 -> 0.8; ")
    assert marks(site)["worker-1"].cpu_guarantee == 800
    assert json.loads(json.loads(channel.kept["request"][1])["body"])["words"] == [], "it is over"


def test_while_another_phx_changes_the_cluster_nobody_is_heard(site, monkeypatch):
    monkeypatch.setattr(requests, "_broker", None)
    with site.locked("cluster-demo", quiet):
        assert requests.answer(site, NOW, quiet) == []


def test_of_two_ticks_one_hears(site, monkeypatch):
    monkeypatch.setattr(requests, "_broker", None)
    with site.locked("hear-demo", quiet):
        assert requests.answer(site, NOW, quiet) == []


def test_nobody_at_the_host_is_told_in_the_guest(tmp_path, capsys):
    channel = agent.Channel("worker-1", "secret")
    agent.Desk(channel, str(tmp_path), limit=0.05).start()
    assert agent.ask(["cpu.limit=1"], str(tmp_path)) == 3
    assert (
        "nobody at the host answered within 0.05 s: phx tick answers there"
        in capsys.readouterr().err
    )
    assert agent.ask(["nonsense"], str(tmp_path)) == 2
    assert agent.ask(["cpu.limit=1"], str(tmp_path / "none")) == 3


def test_who_asks_and_waits_no_longer_has_asked_for_nothing(tmp_path):
    channel = agent.Channel("worker-1", "secret")
    desk = agent.Desk(channel, str(tmp_path), limit=60)
    ours, theirs = socket.socketpair()
    ours.sendall(b'["cpu.limit=1"]\n')
    ours.close()
    started = time.monotonic()
    desk.serve(theirs)
    assert time.monotonic() - started < 30 and not desk.busy.locked()
    assert json.loads(json.loads(channel.kept["request"][1])["body"])["words"] == []


def test_one_request_at_a_time(tmp_path):
    channel = agent.Channel("worker-1", "secret")
    desk = agent.Desk(channel, str(tmp_path), limit=5)
    with desk.busy:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(b'["cpu.limit=1"]\n')
            desk.serve(theirs)
            assert b"another request of this node waits" in ours.recv(4096)
    assert channel.kept == {}
