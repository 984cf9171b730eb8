"""A host's files have one name inside and another outside, and a sandbox is told alive by its own socket alone."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from builder.errors import EnvironmentLacks, InputError
from cluster.hosts import sandbox, store
from cluster.hosts.local import Here
from cluster.site import Site
from tests.invented import LAB


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (
            "/var/lib/libvirt/philoxenia/demo/a.qcow2",
            "/nonexistent/hosts/lab/lib/philoxenia/demo/a.qcow2",
        ),
        ("/var/lib/libvirt/images/1f/disk.raw", "/nonexistent/images/1f/disk.raw"),
        ("/run/libvirt/philoxenia/demo/a.sock", "/nonexistent/run/lab/philoxenia/demo/a.sock"),
        (
            "/var/log/libvirt/philoxenia/demo/a.log",
            "/nonexistent/hosts/lab/log/philoxenia/demo/a.log",
        ),
    ],
)
def test_where_a_sandboxs_files_lie_for_us(inside, outside):
    assert LAB.outside(PurePosixPath(inside)) == Path(outside)
    assert replace(LAB, folder="").outside(PurePosixPath(inside)) == Path(inside), (
        "of a host of its own"
    )


def test_what_is_none_of_its_folders_is_refused():
    with pytest.raises(ValueError, match="/etc/shadow is not one of a host's folders"):
        LAB.outside(PurePosixPath("/etc/shadow"))


def test_how_to_enter():
    assert LAB.enter() == ["nsenter", "--net=/run/netns/phx-lab"]
    assert replace(LAB, netns="").enter() == []
    assert LAB.proxy().startswith("nsenter --net=/run/netns/phx-lab bash -c")
    assert replace(LAB, netns="").proxy() == ""
    far = replace(LAB, netns="", ssh="/a home/ssh_config")
    assert far.proxy() == "ssh -F '/a home/ssh_config' -W %h:%p lab"


def test_where_an_image_lies_for_the_hosts_libvirt():
    image, short = "1f" * 32, "1f" * 8
    assert str(LAB.image(image)) == f"/var/lib/libvirt/images/{short}"
    own = replace(LAB, folder="", catalog="/home/images")
    assert str(own.image(image)) == f"/home/images/{short}"
    far = replace(LAB, folder="", ssh="/etc/ssh_config")
    assert str(far.image(image)) == f"/var/lib/libvirt/images/philoxenia/{short}"


@pytest.fixture
def serving(tmp_path):
    """A host on whose socket somebody listens, and whose folder is told beside it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "libvirt-sock"))
        listening.listen()
        (tmp_path / "owner").write_text(LAB.folder)
        yield replace(LAB, run=str(tmp_path))


def test_alive_when_its_socket_answers(serving):
    assert sandbox.alive(serving)
    assert not sandbox.alive(LAB)


def test_a_socket_that_nobody_serves_is_not_alive(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "libvirt-sock"))
    assert not sandbox.alive(replace(LAB, run=str(tmp_path)))


def test_another_homes_sandbox_of_the_same_name_is_not_ours(serving):
    assert not sandbox.alive(replace(serving, folder="/nonexistent/other-home/hosts/lab"))


def test_a_console_that_said_nothing_is_empty(tmp_path):
    host = replace(LAB, folder=str(tmp_path))
    assert store.console_tail(Here(host), "demo", "head-1") == ""
    path = host.outside(store.log("demo", "head-1"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one\r\ntwo\xff\n" + b"".join(b"line %d\n" % n for n in range(3000)))
    assert store.console_tail(Here(host), "demo", "head-1", 2) == "line 2998\nline 2999"


def test_a_console_does_not_drive_the_terminal_that_shows_it(tmp_path):
    host = replace(LAB, folder=str(tmp_path))
    path = host.outside(store.log("demo", "head-1"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x1b[2J\x1b]0;owned\x07[\x1b[0;32m  OK  \x1b[0m]\tStarted\x07\r\nlogin:")
    assert store.console_tail(Here(host), "demo", "head-1") == "[  OK  ]\tStarted\ufffd\nlogin:"


def test_who_is_not_root_hears_so_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder is made"))
    for act in (
        lambda: sandbox.up("lab", tmp_path, tmp_path / "images", 10**9),
        lambda: sandbox.down(LAB),
    ):
        with pytest.raises(EnvironmentLacks, match="a sandbox host needs root"):
            act()


def test_a_sandbox_may_have_some_of_the_cpus_and_promises_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    some = sandbox.describe("lab", tmp_path, tmp_path, 10**9, "1-2")
    assert (some.cpu, some.cpus) == (1800, "1-2")
    assert sandbox.describe("lab", tmp_path, tmp_path, 10**9).cpu == 3600
    for text, what in (
        ("3-4", "'3-4' are not all here"),
        ("two", "not a list of CPUs"),
        ("2-1", "list"),
    ):
        with pytest.raises(InputError, match=what):
            sandbox.describe("lab", tmp_path, tmp_path, 10**9, text)


def test_a_sandbox_that_runs_keeps_its_cpus(tmp_path, monkeypatch):
    site = Site(tmp_path)
    asked = []

    def up(name, home, catalog, network, cpus):
        asked.append(cpus)
        return replace(LAB, cpus=cpus)

    monkeypatch.setattr(sandbox, "up", up)
    monkeypatch.setattr(sandbox, "alive", lambda _host: True)
    for cpus in ("1", None, "1"):
        site.start_host("lab", cpus=cpus)
    assert asked == ["1", "1", "1"], "what it had stays"
    with pytest.raises(InputError, match="host 'lab' runs on the CPUs 1"):
        site.start_host("lab", cpus="0")
    site.ledger.close()


def test_what_is_removed_may_be_gone_already(tmp_path):
    host = replace(LAB, folder=str(tmp_path), run=str(tmp_path / "run"))
    for place in (store.disk, store.seed, store.channel, store.log):
        path = host.outside(place("demo", "head-1"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for _ in range(2):
        store.remove_nodes(Here(host), "demo", "head-1")
    store.remove_cluster(Here(host), "demo")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
