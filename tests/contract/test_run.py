"""What whoever starts a program may rely on: its output as bytes, its failure with its last words, its end in any case.

Over `sh` on this machine; a runner over SSH would have to pass the same.
"""

from __future__ import annotations

import time

import pytest

from builder.errors import CommandFailed, EnvironmentLacks, TimedOut, explain
from builder.run import lives, program, run, start_detached

pytestmark = pytest.mark.process


def sh(text, **more):
    return run(["sh", "-c", text], timeout=more.pop("timeout", 5), **more)


def gone(pid, patience=2.0):
    """Whether the process ends before `patience` seconds have passed."""
    deadline = time.monotonic() + patience
    while lives(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_output_is_bytes_as_they_were_written():
    done = sh(r"printf 'a\377\0b\n'; echo other >&2")
    assert (done.status, done.stdout) == (0, b"a\xff\0b\n")
    assert done.text == "a\ufffd\0b\n" and done.tail == "other"


def test_input_of_any_size_comes_back():
    data = bytes(range(256)) * 4096
    assert run(["cat"], timeout=5, stdin=data).stdout == data


def test_without_input_there_is_an_end_not_a_terminal():
    assert run(["cat"], timeout=5).stdout == b""


def test_a_program_that_does_not_read_is_no_error():
    assert sh("exit 0", stdin=b"x" * (1 << 20)).status == 0


def test_much_on_both_outputs_does_not_block():
    done = sh("i=0; while [ $i -lt 3000 ]; do echo $i-out; echo $i-err >&2; i=$((i+1)); done")
    assert done.stdout.count(b"\n") == 3000 and done.tail.splitlines()[-1] == "2999-err"


@pytest.mark.parametrize(
    ("why", "text", "status", "said"),
    [
        ("its last words are of standard error", "echo out; echo one >&2; echo two >&2; exit 3",
         3, "error: exit 3: sh: one\ntwo"),
        ("or of its output when it said nothing there", "echo out; exit 4", 4, "error: exit 4: sh: out"),
        ("or none", "exit 5", 5, "error: exit 5: sh"),
        ("a signal", "kill -TERM $$", -15, "error: signal 15: sh"),
        ("no more than a dozen lines",
         "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo $i >&2; done; exit 1", 1,
         "error: exit 1: sh: " + "\n".join(str(n) for n in range(3, 15))),
    ],
)  # fmt: skip
def test_a_failure_has_its_status_and_last_words(why, text, status, said):
    with pytest.raises(CommandFailed) as caught:
        sh(text)
    assert caught.value.status == status, why
    assert explain(caught.value) == said, why


def test_unless_the_caller_looks_himself():
    assert sh("exit 7", check=False).status == 7


def test_input_stands_in_no_message():
    with pytest.raises(CommandFailed) as caught:
        sh("cat > /dev/null; exit 1", stdin=b"a secret")
    assert "a secret" not in f"{caught.value!r} {explain(caught.value)}"


def test_what_takes_too_long_ends_with_its_children_and_says_its_last(tmp_path):
    started = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        sh(f"sleep 60 & echo $! > {tmp_path}/pid; echo waiting >&2; wait", timeout=0.15)
    assert time.monotonic() - started < 2
    assert explain(caught.value) == "error: sh did not end in time; it last said: waiting"
    assert gone(int((tmp_path / "pid").read_text()))


def test_closing_its_outputs_gains_a_program_no_time():
    with pytest.raises(TimedOut):
        sh("exec >&- 2>&-; sleep 0.4", timeout=0.05)


def test_an_exception_in_between_ends_it_too(tmp_path):
    def stop(_line):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sh(f"echo $$ > {tmp_path}/pid; echo line; sleep 60", on_line=stop)
    assert gone(int((tmp_path / "pid").read_text()))


def test_lines_are_told_as_they_come_whole():
    lines = []
    sh(r"printf 'one\ntw'; printf 'o\r\n'; printf 'no end'", on_line=lines.append)
    assert lines == ["one", "two"]


def test_a_log_is_added_to(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    sh("echo out; echo err >&2", log=log)
    assert sorted(log.read_text().splitlines()) == ["before", "err", "out"]


def test_the_environment_is_what_was_given():
    done = run(
        ["sh", "-c", "echo $A; echo ${HOME-none}"],
        timeout=5,
        env={"PATH": "/usr/bin:/bin", "A": "b"},
    )
    assert done.text == "b\nnone\n"


def test_the_folder_is_what_was_given(tmp_path):
    assert sh("pwd -P", cwd=tmp_path).text.strip() == str(tmp_path.resolve())


def test_a_program_that_is_not_there():
    with pytest.raises(EnvironmentLacks, match="the program no-such-program is missing"):
        run(["no-such-program"], timeout=1)
    with pytest.raises(EnvironmentLacks) as caught:
        program("no-such-program", "its-package")
    assert caught.value.hint == "apt-get install its-package"
    assert program("sh", "dash").endswith("/sh")


def test_a_detached_program_lives_on_in_a_session_of_its_own(tmp_path):
    import os
    import signal

    pid = start_detached(["sh", "-c", "echo begun; exec sleep 60"], log=tmp_path / "log")
    try:
        assert lives(pid) and os.getsid(pid) == pid
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not lives(pid)


def test_no_process_does_not_live():
    assert not lives(2**22 + 1)
