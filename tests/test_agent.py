"""The agent's parts that need no guest: files put in place, hooks run, the seed known, reports sent when asked.

That it boots a node is the vm tier's to show.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time

import pytest

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
        return agent.run_hook(path, {"PATH": "/usr/bin:/bin", **env}, limit)

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
            channel.converse(fd)

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
    first, second = (decode(text, "n-1", Secret(TOKEN.encode())) for text in channel.lines)
    assert (first.node, first.seq, first.stage, first.message) == ("n-1", 0, "booted", "")
    assert first.boot == second.boot == agent.boot_id() and 0 < first.uptime <= second.uptime
    assert (second.seq, second.stage, second.message) == (1, "failed", "hook x: exit 1")
    assert (second.tail, second.hooks) == ("äöü\n\ufffd", (("x", 1, 0.5), ("y", None, 2.0)))


def test_the_largest_report_fits_into_a_line(channel):
    from contextualize.message import LIMIT

    channel.report(
        "failed",
        message="x",
        tail="\x00" * agent.TAIL,
        hooks=[["/etc/philoxenia/hooks.d/x", 1, 1.0]] * 500,
    )
    assert len(channel.lines[0]) <= LIMIT


def test_nothing_is_said_before_the_question_and_all_after_it(channel, talk):
    channel.report("booted")
    talk.settimeout(0.05)
    with pytest.raises(TimeoutError):
        talk.recv(1)
    talk.settimeout(2)
    channel.report("contextualized")
    talk.sendall(ASK)
    assert [r.stage for r in lines(talk, 2)] == ["booted", "contextualized"]


def test_news_come_as_they_are_and_every_question_starts_anew(channel, talk):
    talk.sendall(ASK)
    channel.report("booted")
    assert [r.seq for r in lines(talk, 1)] == [0]
    channel.report("healthy")
    assert [r.seq for r in lines(talk, 1)] == [1]
    talk.sendall(ASK)
    assert [r.seq for r in lines(talk, 2)] == [0, 1]


def test_a_question_in_pieces_after_rubbish(channel, talk):
    channel.report("booted")
    for part in (b"\x00rubbish\n", ASK[:5], ASK[5:]):
        talk.sendall(part)
    assert [r.seq for r in lines(talk, 1)] == [0]


def test_a_line_that_nobody_takes_is_given_up():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        started = time.monotonic()
        assert agent.send(theirs.fileno(), b"x" * (8 << 20), patience=0.1) is False
        assert time.monotonic() - started < 1
        assert agent.send(ours.fileno(), b"small\n", patience=0.1) is True


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


def test_peers_of_a_seed_are_json_that_a_hook_reads():
    from contextualize.context import document
    from tests.test_context import CONTEXT

    told = document(CONTEXT, "head-1")
    public = {k: v for k, v in told.items() if k not in ("token", "files")}
    text = json.dumps(public)
    assert "PRIVATE" not in text and told["token"] not in text
