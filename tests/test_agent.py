"""The agent's parts that need no guest: files put in place, hooks run, the seed known, reports sent when asked.

That it boots a node is the vm tier's to show.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import agent
from contextualize.identity import Secret
from contextualize.message import ASK, decode

TOKEN = "ab" * 32


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# write()


@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o755])
def test_a_file_is_whole_with_its_mode(tmp_path, wanted):
    path = tmp_path / "a" / "b" / "file"
    old = os.umask(0o077)
    try:
        agent.write(str(path), "text ü\n", wanted)
    finally:
        os.umask(old)
    assert path.read_text(encoding="utf-8") == "text ü\n" and mode(path) == wanted
    assert os.listdir(path.parent) == ["file"]


def test_a_secret_is_never_readable_on_its_way(tmp_path, monkeypatch):
    seen = []
    real = os.fchmod
    monkeypatch.setattr(
        os, "fchmod", lambda fd, m: (seen.append(stat.S_IMODE(os.fstat(fd).st_mode)), real(fd, m))
    )
    agent.write(str(tmp_path / "key"), "secret", 0o600)
    assert seen and all(m & 0o077 == 0 for m in seen)


def test_what_is_there_already_is_left_alone(tmp_path):
    path = tmp_path / "file"
    agent.write(str(path), "same", 0o644)
    before = os.stat(path)
    agent.write(str(path), "same", 0o644)
    after = os.stat(path)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("why", "text", "wanted"), [("other text", "new", 0o644), ("another mode", "old", 0o600)]
)
def test_what_differs_is_replaced_by_a_new_file(why, text, wanted, tmp_path):
    path = tmp_path / "file"
    agent.write(str(path), "old", 0o644)
    before = os.stat(path).st_ino
    agent.write(str(path), text, wanted)
    assert path.read_text() == text and mode(path) == wanted, why
    assert os.stat(path).st_ino != before, "readers of the old file read it to its end"


def test_what_a_death_left_aside_is_no_hindrance(tmp_path):
    (tmp_path / "file.philoxenia").write_text("half")
    agent.write(str(tmp_path / "file"), "whole", 0o644)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_no_utf8_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"caf\xe9\n")
    agent.write(str(tmp_path / "file"), "new", 0o644)
    assert (tmp_path / "file").read_text() == "new"


def test_a_link_aside_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / "file.philoxenia").symlink_to(tmp_path / "other")
    agent.write(str(tmp_path / "file"), "mine", 0o600)
    assert (tmp_path / "other").read_text() == "other"


# hooks


def hook(folder, name, text="#!/bin/sh\n", executable=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755 if executable else 0o644)
    return str(folder / name)


def test_hooks_in_the_order_of_their_names_all_before_the_roles(tmp_path):
    everyone, role = tmp_path / "hooks.d", tmp_path / "roles" / "head"
    wanted = [
        hook(everyone, "10-a"),
        hook(everyone, "20-b"),
        hook(role, "05-c"),
        hook(role, "50-d"),
    ]
    hook(everyone, ".hidden")
    hook(everyone, "30-not-executable", executable=False)
    hook(tmp_path / "roles" / "worker", "10-another-role")
    (everyone / "40-folder").mkdir()
    (everyone / "50-broken").symlink_to("/nonexistent")
    assert agent.hooks_of("head", str(tmp_path)) == wanted
    assert agent.hooks_of("nobody", str(tmp_path)) == wanted[:2]


def test_no_hooks(tmp_path):
    assert agent.hooks_of("head", str(tmp_path / "nothing")) == []


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a hook of the given lines."""
    monkeypatch.setattr(agent, "RUN", str(tmp_path))

    def run_(text, limit=5, **env):
        path = hook(tmp_path / "hooks", "10-hook", f"#!/bin/sh\n{text}\n")
        return agent.run_hook([path], {"PATH": "/usr/bin:/bin", **env}, limit)

    return run_


@pytest.mark.process
@pytest.mark.parametrize(
    ("why", "text", "status", "tail"),
    [
        ("both outputs, in order", "echo one; echo two >&2", 0, "one\ntwo\n"),
        ("its own status", "echo no; exit 7", 7, "no\n"),
        ("a signal", "kill -9 $$", -9, ""),
        ("its environment", 'echo "$PHX_NODE"', 0, "n-1\n"),
        ("nothing to read", "cat", 0, ""),
        ("bytes that are no text", r"printf '\377ok'", 0, "�ok"),
    ],
)
def test_a_hooks_status_and_words(why, text, status, tail, run):
    got, seconds, said = run(text, PHX_NODE="n-1")
    assert (got, said) == (status, tail), why
    assert 0 <= seconds < 5


@pytest.mark.process
def test_only_the_end_of_much_output_is_kept(run):
    _, _, said = run("i=0; while [ $i -lt 2000 ]; do echo line-$i; i=$((i+1)); done")
    assert len(said) == agent.TAIL and said.endswith("line-1999\n")


@pytest.mark.process
def test_a_hook_that_takes_too_long_is_ended_with_its_children(run, tmp_path):
    status, seconds, said = run(
        f"echo begun; sleep 60 & echo $! > {tmp_path}/pid; wait", limit=0.15
    )
    assert (status, said) == (None, "begun\n") and seconds < 2
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in ("Z", "X"):
                    break
        except FileNotFoundError:
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"its child {pid} lives on")


@pytest.mark.process
def test_a_daemon_that_a_hook_leaves_does_not_hold_it(run):
    started = time.monotonic()
    assert run("sleep 0.5 & echo started")[0] == 0
    assert time.monotonic() - started < 0.4


# the seed


def volume(name=b"cidata", magic=b"CD001"):
    return bytes(32768) + b"\1" + magic + bytes(34) + name.ljust(32)


@pytest.mark.parametrize(
    ("why", "data", "found"),
    [
        ("as NoCloud wants it", volume(), True),
        ("capitals are as good", volume(b"CIDATA"), True),
        ("another volume", volume(b"cidata2"), False),
        ("no ISO 9660", volume(magic=b"NSR02"), False),
        ("too short", bytes(100), False),
        ("empty", b"", False),
    ],
)
def test_the_seed_is_known_by_its_volume_id(why, data, found, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(data)
    assert agent.find_seed([str(disk)]) == (str(disk) if found else None), why


def test_the_first_seed_is_taken_and_what_cannot_be_read_is_passed_over(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(volume())
    devices = [str(tmp_path / n) for n in ("gone", ".", "b", "a")]
    assert agent.find_seed(devices) == str(tmp_path / "b")
    assert agent.find_seed([]) is None


def test_no_seed_in_time_says_what_was_seen(monkeypatch):
    monkeypatch.setattr(agent, "find_seed", lambda: None)
    with pytest.raises(RuntimeError, match=r"no seed disk \(volume cidata\); block devices seen: "):
        agent.read_seed(time.monotonic() - 1)


# reports


@pytest.fixture
def channel():
    found = agent.Channel("n-1", TOKEN)
    found.count = 0
    yield found
    os.close(found.wake_read)
    os.close(found.wake_write)


@pytest.fixture
def talk(channel):
    """Our end of a port that the channel serves."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    fd = theirs.detach()

    def serve():
        with contextlib.suppress(OSError):
            channel.converse(agent.Port(fd))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ours.settimeout(2)
    yield ours
    ours.close()
    # To the agent, our end being gone means to wait for the next to come; only its own end, gone, ends it.
    os.close(fd)
    os.write(channel.wake_write, b".")
    thread.join(2)


def lines(ours, count):
    data = b""
    while data.count(b"\n") < count:
        part = ours.recv(65536)
        assert part, f"ended after {data!r}"
        data += part
    return [decode(text, "n-1", Secret(TOKEN.encode())) for text in data.splitlines()]


def test_a_report_is_what_our_side_reads(channel):
    channel.report("booted")
    channel.report(
        "failed", message="hook x: exit 1", tail="äöü\n\x00", hooks=[["x", 1, 0.5], ["y", None, 2]]
    )
    first, second = (
        decode(text, "n-1", Secret(TOKEN.encode())) for _, text in channel.kept.values()
    )
    assert (first.node, first.seq, first.stage, first.message) == ("n-1", 1, "booted", "")
    assert first.boot == second.boot == agent.boot_id() and 0 < first.uptime <= second.uptime
    assert (second.seq, second.stage, second.message) == (2, "failed", "hook x: exit 1")
    assert (second.tail, second.hooks) == ("äöü\n\ufffd", (("x", 1, 0.5), ("y", None, 2.0)))


def test_the_largest_report_fits_into_a_line(channel):
    from contextualize.message import LIMIT

    channel.report(
        "failed",
        message="x",
        tail="\x00" * agent.TAIL,
        hooks=[["/etc/philoxenia/hooks.d/x", 1, 1.0]] * 500,
    )
    assert len(channel.kept["state"][1]) <= LIMIT


def test_who_listens_when_the_port_is_opened_is_told_all_and_whoever_asks_again(channel, talk):
    """A broker that outlives an agent asked the one before."""
    channel.report("booted")
    channel.report("contextualized")
    assert [r.stage for r in lines(talk, 2)] == ["booted", "contextualized"]
    talk.sendall(ASK)
    assert [r.stage for r in lines(talk, 2)] == ["booted", "contextualized"]


def test_news_come_as_they_are_and_every_question_starts_anew(channel, talk):
    channel.report("booted")
    assert [r.seq for r in lines(talk, 1)] == [1]
    channel.report("healthy")
    assert [r.seq for r in lines(talk, 1)] == [2]
    talk.sendall(ASK)
    assert [r.seq for r in lines(talk, 2)] == [1, 2]


def test_a_question_in_pieces_after_rubbish(channel, talk):
    channel.report("booted")
    assert [r.seq for r in lines(talk, 1)] == [1], "unasked"
    for part in (b"\x00rubbish\n", ASK[:5], ASK[5:]):
        talk.sendall(part)
    assert [r.seq for r in lines(talk, 1)] == [1]


def test_a_line_that_nobody_takes_is_given_up():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        started = time.monotonic()
        assert agent.send(agent.Port(theirs.fileno()), b"x" * (8 << 20), patience=0.1) is False
        assert time.monotonic() - started < 1
        assert agent.send(agent.Port(ours.fileno()), b"small\n", patience=0.1) is True


def test_ready_is_told_to_systemd(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        agent.notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    agent.notify("READY=1")


def test_the_recipe_ships_this_very_file():
    from pathlib import Path

    root = Path(__file__).parent.parent
    shipped = root / "recipes" / "base" / "agent.py"
    assert shipped.read_bytes() == (root / "contextualize" / "agent.py").read_bytes()


def test_only_what_counts_is_said_again(channel, talk):
    """Where the node is now stands for all that it was; each fact stands for itself."""
    channel.report("booted")
    channel.report("contextualized", context="a")
    channel.give("key", b"\x00\xff")
    channel.report("healthy", context="a")
    channel.report("contextualized", context="b")
    deadline = time.monotonic() + 2
    while lines(talk, 1)[-1].seq != channel.count:  # the news, as they come
        assert time.monotonic() < deadline
    talk.sendall(ASK)
    said = lines(talk, 3)
    assert [getattr(r, "stage", None) or r.fact for r in said] == [
        "booted",
        "key",
        "contextualized",
    ]
    assert said[1].value == b"\x00\xff" and said[2].context == "b"


def test_an_agent_started_again_repeats_no_number(channel):
    channel.report("booted")
    later = agent.Channel("n-1", TOKEN)
    assert later.count > 0 and later.boot == channel.boot


# orders


def test_an_order_with_our_mac_is_heard_and_no_other(channel, talk):
    from contextualize.message import encode, order

    token = Secret(TOKEN.encode())
    talk.sendall(order({"leave": True}, Secret(b"another's")))
    talk.sendall(encode({"leave": True}, token))  # an agent's own line, played back
    talk.sendall(b'{"body": 7, "mac": "x"}\n[]\nnull\n{"body": "{}"}\n')
    document = {**DOCUMENT, "data": {"a": "ä" * 200_000}}
    talk.sendall(order({"context": document}, token))
    assert channel.orders.get(timeout=2) == {"context": document}
    assert channel.orders.empty()


def test_parts_that_it_has_are_not_asked_for_and_what_comes_is_put_in_its_place(channel, talk):
    from contextualize.message import order, supply
    from contextualize.part import lean, named, part, text_of

    parts, token = {}, Secret(TOKEN.encode())
    peers = [{"name": f"n-{i}", "role": "n", "address": f"10.0.0.{i}"} for i in range(40)]
    facts = {"part": {"one": True, "secret": False, "values": {"n-1": {"text": "x" * 2000}}}}
    files = [entry("/etc/hosts", "h" * 2000), entry("/etc/new", "n" * 2000), entry("/etc/key", "k")]
    document = {**DOCUMENT, "peers": peers, "facts": facts, "files": files}
    told = {**document, "peers": part(peers, parts), "facts": part(facts, parts),
            "files": [lean(f, parts) for f in files]}  # fmt: skip
    assert len(parts) == 4 and named(told) == parts.keys() == agent.parts_of(told)
    channel.hold({**DOCUMENT, "peers": peers, "files": files[:1]})
    talk.sendall(order({"context": told}, token))
    [want] = lines(talk, 1)
    assert want.parts == tuple(sorted(agent.part_of(v) for v in (facts, "n" * 2000)))
    talk.sendall(supply("never asked for") + supply(text_of(facts)))
    assert channel.orders.empty()
    talk.sendall(supply("n" * 2000))
    assert channel.orders.get(timeout=2) == {"context": document}
    assert "want" not in channel.kept, "nobody is asked again for what is here"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.sampled_from(["context", "parts", "part", "ask", "leave", "ab" * 32]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["context", "part", "ask", "leave", "body", "mac", "peers",
                                       "facts", "files", "text", "path"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def hearing():
    found = agent.Channel("n-1", TOKEN)
    yield found
    os.close(found.wake_read)
    os.close(found.wake_write)


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_no_line_without_our_mac_is_an_order_or_stops_the_channel(hearing, line):
    assert hearing.hear(line) in (True, False)
    assert hearing.orders.empty() and hearing.coming is None


@given(st.lists(json_values, max_size=4))
def test_nothing_that_our_side_may_sign_stops_the_channel(hearing, bodies):
    """A newer phx may say what this agent does not know."""
    from contextualize.message import order

    for body in bodies:
        assert hearing.hear(order(body, Secret(TOKEN.encode()))) in (True, False)
    while not hearing.orders.empty():
        hearing.orders.get()
    hearing.coming = None


# files


def entry(path, text="x", mode="0644", **more):
    return {"path": str(path), "text": text, "mode": mode, **more}


def test_all_files_are_written_before_the_first_is_renamed(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(agent, "owner", lambda text: (_ for _ in ()).throw(KeyError(text)))
    with pytest.raises(KeyError, match="nobody-here"):
        agent.install([entry(tmp_path / "a", "new"), entry(tmp_path / "b", owner="nobody-here")])
    assert (tmp_path / "a").read_text() == "old" and not (tmp_path / "b").exists()


def test_what_changed_is_told(tmp_path):
    files = [entry(tmp_path / "a"), {"path": str(tmp_path / "b"), "data": "AP8=", "mode": "0600"}]
    assert agent.install(files) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (tmp_path / "b").read_bytes() == b"\x00\xff" and mode(tmp_path / "b") == 0o600
    assert agent.install(files) == []
    assert agent.install([entry(tmp_path / "a", "y"), files[1]]) == [str(tmp_path / "a")]


# changes


def told(peers=(), facts=(), data=()):
    return {"peers": [{"name": n, "role": r, "address": a} for n, r, a in peers],
            "facts": dict(facts), "data": dict(data)}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "old", "new", "words"),
    [
        ("nothing", told([("h", "head", "1")]), told([("h", "head", "1")]), []),
        ("a node came", told([("h", "head", "1")]), told([("h", "head", "1"), ("w", "worker", "2")]),
         ["peers", "role:worker"]),
        ("an address", told([("h", "head", "1")]), told([("h", "head", "3")]), ["peers", "role:head"]),
        ("a fact and data", told(facts={"a": 1, "b": 1}, data={"m": "x"}), told(facts={"b": 2}, data={"m": "y"}),
         ["fact:a", "fact:b", "data:m"]),
    ],
)  # fmt: skip
def test_changes_have_names(why, old, new, words):
    assert agent.changes(old, new, []) == words, why
    assert agent.changes(old, new, ["/etc/x"]) == [*words, "file:/etc/x"], why


def test_a_change_runs_the_hooks_that_depend_on_it(tmp_path):
    top = tmp_path / "change.d"
    always, role = hook(top, "50-a"), hook(top / "role-worker", "10-b")
    hook(top / "fact-key", "10-c")
    assert agent.change_hooks(["peers", "role:worker", "file:/etc/x"], str(tmp_path)) == [
        always,
        role,
    ]
    assert agent.change_hooks([], str(tmp_path)) == [always]


# the node


DOCUMENT = {
    "complete": True, "missing": [], "generation": 3, "digest": "d3", "data": {"motd": "hi"}, "files": [],
    "peers": [{"name": "h-1", "role": "h", "address": "10.0.0.1"}, {"name": "n-1", "role": "n", "address": "10.0.0.2"}],
    "facts": {"key": {"one": True, "secret": True, "values": {"h-1": {"data": "AP8="}}},
              "ids": {"one": False, "secret": False, "values": {"n-1": {"text": "7"}}},
              "place": {"one": True, "secret": False, "values": {"h-1": {"text": "north\n"}}}},
    "provides": [], "healthy": [],
}  # fmt: skip
SEED = {"version": 2, "cluster": "demo", "node": "n-1", "role": "n", "token": TOKEN, "hook_limit": 5,
        "nics": [{"mac": "x", "address": "10.0.0.2/24"}], "context": DOCUMENT}  # fmt: skip


@pytest.fixture
def node(tmp_path, monkeypatch, channel):
    """A node whose folders are in tmp_path and whose sshd greets."""
    monkeypatch.setattr(agent, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(agent, "HOOKS", str(tmp_path / "etc"))
    monkeypatch.setattr(agent, "KEPT", str(tmp_path / "var" / "context.json"))
    monkeypatch.setattr(agent, "wait_for_ssh", lambda _deadline: True)
    monkeypatch.setattr(
        agent, "hooks_of", lambda role: agent.executables(str(tmp_path / "etc" / "hooks.d"))
    )
    monkeypatch.setattr(
        agent, "change_hooks", lambda words: agent.executables(str(tmp_path / "etc" / "change.d"))
    )
    (tmp_path / "run" / "provide").mkdir(parents=True)
    return agent.Node(json.loads(json.dumps(SEED)), channel)


def states(channel):
    token = Secret(TOKEN.encode())
    return [decode(text, "n-1", token) for _, text in sorted(channel.kept.values())]


def test_the_context_is_laid_out_for_hooks(node, tmp_path):
    node.attempt(DOCUMENT)
    top = tmp_path / "run" / "context"
    assert (top / "roles" / "h").read_text() == "10.0.0.1 h-1.demo h-1\n"
    assert (top / "hosts").read_text().count("\n") == 2 and (
        top / "data" / "motd"
    ).read_text() == "hi"
    assert (top / "facts" / "key").read_bytes() == b"\x00\xff" and mode(
        top / "facts" / "key"
    ) == 0o600
    assert (top / "facts" / "ids" / "n-1").read_text() == "7"
    assert (top / "this" / "full").read_text() == "n-1.demo\n"
    public = (tmp_path / "run" / "context.json").read_text()
    assert TOKEN not in public and "AP8=" not in public and json.loads(public)["generation"] == 3
    assert mode(tmp_path / "var" / "context.json") == 0o600, "facts are in it"
    assert states(node.channel)[-1].stage == "healthy" and states(node.channel)[-1].context == "d3"


def test_short_facts_that_are_no_secret_are_in_the_environment(node):
    env = node.env("join", ["peers"])
    assert env["PHX_FACT_PLACE"] == "north" and env["PHX_CHANGED"] == "peers"
    assert not {"PHX_FACT_KEY", "PHX_FACT_IDS"} & env.keys()


@pytest.mark.process
def test_a_later_context_runs_the_hooks_of_change_and_not_those_of_joining(node, tmp_path):
    out = tmp_path / "out"
    hook(tmp_path / "etc" / "hooks.d", "10-join", f'#!/bin/sh\necho "$PHX_EVENT" >> {out}\n')
    hook(
        tmp_path / "etc" / "change.d",
        "10-change",
        f'#!/bin/sh\necho "$PHX_EVENT $PHX_CHANGED" >> {out}\n',
    )
    node.attempt(DOCUMENT)
    node.attempt({**DOCUMENT, "digest": "d4", "generation": 4, "data": {"motd": "ho"}})
    assert out.read_text() == "join\nchange data:motd\n"
    assert [h[0].rpartition("/")[2] for h in states(node.channel)[-1].hooks] == ["10-change"]
    assert states(node.channel)[-1].context == "d4"


def test_a_file_that_the_context_no_longer_has_goes(node, tmp_path):
    node.attempt(
        {**DOCUMENT, "files": [entry(tmp_path / "etc" / "a"), entry(tmp_path / "etc" / "b")]}
    )
    node.attempt({**DOCUMENT, "digest": "e", "files": [entry(tmp_path / "etc" / "b")]})
    assert os.listdir(tmp_path / "etc") == ["b"]


@pytest.mark.process
def test_facts_are_given_once_values_before_readiness(node, tmp_path):
    (tmp_path / "key").write_bytes(b"\x00k")
    ways = [("ready", "probe", "true"), ("key", "file", str(tmp_path / "key")), ("said", "command", "echo hi"),
            ("made", "hook", "")]  # fmt: skip
    provides = [{"name": n, "how": h, "what": w, "early": False} for n, h, w in ways]
    hook(tmp_path / "etc" / "hooks.d", "10-made", '#!/bin/sh\nprintf m > "$PHX_PROVIDE/made"\n')
    node.attempt({**DOCUMENT, "provides": provides})
    given = {r.fact: r.value for r in states(node.channel) if hasattr(r, "fact")}
    assert given == {"key": b"\x00k", "said": b"hi\n", "made": b"m", "ready": None}
    assert [r.fact for r in states(node.channel) if hasattr(r, "fact")][-1] == "ready"
    (tmp_path / "key").unlink()
    node.attempt({**DOCUMENT, "digest": "e", "provides": provides})
    assert states(node.channel)[-1].stage == "healthy", "what was given is not read again"


@pytest.mark.process
@pytest.mark.parametrize(
    ("why", "way", "message"),
    [
        ("no hook wrote it", ("x", "hook", ""), r"no hook wrote the fact x into \$PHX_PROVIDE"),
        (
            "its command fails",
            ("x", "command", "echo no >&2; exit 3"),
            "the command of the fact x: exit 3",
        ),
        ("its file is gone", ("x", "file", "/nonexistent"), "FileNotFoundError"),
        (
            "too large",
            ("x", "command", "head -c 1048577 /dev/zero"),
            "the fact x has more than 1048576 bytes",
        ),
        (
            "never ready",
            ("x", "probe", "false"),
            "x is not ready: 'false' did not succeed within 0.2 s",
        ),
    ],
)
def test_a_fact_that_cannot_be_given_fails_the_node(why, way, message, node):
    node.limit = 0.2 if way[1] == "probe" else 5
    node.attempt(
        {
            **DOCUMENT,
            "provides": [dict(zip(("name", "how", "what"), way, strict=True), early=False)],
        }
    )
    last = states(node.channel)[-1]
    assert last.stage == "failed" and last.context == "d3", why
    import re

    assert re.match(message, last.message), last.message


def test_what_was_in_force_is_taken_up_after_a_restart_of_the_guest(node, channel):
    node.attempt({**DOCUMENT, "generation": 5, "digest": "d5"})
    assert agent.Node(SEED, channel).document["digest"] == "d5"
    newer = {**SEED, "context": {**DOCUMENT, "generation": 6, "digest": "d6"}}
    assert agent.Node(newer, channel).document["digest"] == "d6"
    assert agent.Node({**SEED, "node": "n-2"}, channel).document["digest"] == "d3", (
        "another node's is not ours"
    )


@pytest.mark.process
def test_leaving_is_said_even_when_its_hook_fails(node, tmp_path):
    hook(tmp_path / "etc" / "leave.d", "10-drain", '#!/bin/sh\necho "$PHX_EVENT"; exit 4\n')
    node.leave()
    last = states(node.channel)[-1]
    assert (last.stage, last.tail) == ("left", "leave\n") and "exit 4" in last.message


@pytest.mark.process
def test_whoever_waits_hears_what_a_probe_waits_for(node, monkeypatch):
    monkeypatch.setattr(agent, "until", lambda true, limit: False)
    node.attempt({**DOCUMENT, "healthy": [["command", "false"]]})
    assert states(node.channel)[-1].message == "not healthy: command false did not hold within 5 s"


# Networks.


def test_any_number_of_networks_is_set_up():
    nics = [
        {"mac": "52:54:00:00:00:01", "address": "10.7.0.1/24"},
        {"mac": "52:54:00:00:00:02", "address": "192.168.9.1/16", "gateway": "192.168.0.254"},
        {"mac": "52:54:00:00:00:03", "address": "172.20.0.5/12"},
    ]
    devices = {nic["mac"]: f"eth{n}" for n, nic in enumerate(nics)} | {"00:00:00:00:00:00": "lo"}
    assert agent.links(nics, devices) == [
        "link set lo up",
        "addr replace 10.7.0.1/24 dev eth0", "link set eth0 up",
        "addr replace 192.168.9.1/16 dev eth1", "link set eth1 up",
        "route replace default via 192.168.0.254 dev eth1",
        "addr replace 172.20.0.5/12 dev eth2", "link set eth2 up",
    ]  # fmt: skip
    del devices["52:54:00:00:00:02"]
    with pytest.raises(RuntimeError, match="no network device with MAC 52:54:00:00:00:02; seen: "):
        agent.links(nics, devices)


# Foreign guests.


def test_it_is_written_for_the_pythons_of_older_images():
    """Debian 11 has 3.9: its grammar, and no union of types where isinstance would need 3.10."""
    source = Path(agent.__file__).read_text()
    parsed = ast.parse(source, feature_version=(3, 9))
    asked = [
        call for call in ast.walk(parsed)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("isinstance", "issubclass")
    ]  # fmt: skip
    assert asked and not [c.lineno for c in asked if isinstance(c.args[1], ast.BinOp)]


def test_a_xen_console_is_taken_without_a_terminals_manners():
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    port = agent.Port(os.open(os.ttyname(theirs), os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
    # A terminal would send a carriage return before the newline, echo what it reads, and take ^C and ^Q for itself.
    port.write(b"a line\n")
    os.write(ours, b"\x03\x11 told\n")
    assert _comes(port.read, b"\x03\x11 told\n") == b"\x03\x11 told\n"
    assert _comes(lambda: os.read(ours, 100), b"a line\n") == b"a line\n"
    port.close()
    os.close(ours)
    os.close(theirs)


def _comes(read: Callable[[], bytes], wanted: bytes) -> bytes:
    """All that comes until it is as long as what is wanted: the kernel carries a terminal's bytes in its own time."""
    came, deadline = b"", time.monotonic() + 5
    while len(came) < len(wanted) and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            came += read()
        time.sleep(0.005)
    return came
