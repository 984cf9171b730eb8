"""The wall of tests/conftest.py stands: a fast test starts no process, reaches no network; a golden file is kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from subprocess import Popen

import pytest

from tests.conftest import GOLDEN, WALL


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true"]),
        lambda: Popen(["true"]),
        lambda: subprocess.check_output("true", shell=True),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.spawnvp(os.P_WAIT, "true", ["true"]),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: socket.socket(socket.AF_INET6).connect(("::1", 9)),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(("127.0.0.1", 9)),
    ],
)
def test_the_wall_refuses(start):
    with pytest.raises(AssertionError, match=WALL):
        start()


def test_a_socket_of_this_machine_is_let_through(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as out:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        out.connect(str(tmp_path / "s"))


@pytest.mark.process
def test_a_test_marked_process_may_start_one_and_still_has_no_network():
    assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True).stdout == b"7\n"
    with pytest.raises(AssertionError, match=WALL):
        socket.create_connection(("127.0.0.1", 9))


def test_a_missing_golden_file_is_written_and_fails(golden, request):
    path = GOLDEN / "missing-on-purpose.txt"
    assert not path.exists()
    if request.config.getoption("--update-golden"):
        pytest.skip("nothing is missing while golden files are rewritten")
    try:
        with pytest.raises(pytest.fail.Exception, match="was missing"):
            golden(path.name, "text\n")
        golden(path.name, "text\n")
        with pytest.raises(AssertionError, match="differs from"):
            golden(path.name, "other\n")
    finally:
        path.unlink(missing_ok=True)
