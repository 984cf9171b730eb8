"""The only door to other programs.

Every program runs in a session of its own and dies with us: a normal end, an exception and Ctrl-C end its whole
process group, and `kill -9` of ours ends it through the kernel's parent-death signal (setpriv --pdeathsig).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from builder.errors import CommandFailed, EnvironmentLacks, TimedOut
from builder.secrets import Mask, Secret

TAIL = 12

_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


@dataclass(frozen=True, slots=True)
class Done:
    """A finished program: its status and what it wrote."""

    status: int
    stdout: bytes = field(repr=False)
    tail: str = ""

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


def program(name: str, package: str) -> str:
    """The program's path. EnvironmentLacks naming the Debian package that has it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise EnvironmentLacks(f"the program {name} is missing", f"apt-get install {package}")
    return found


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes | Iterator[bytes] = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    mask: Sequence[Secret] = (),
    silence: float | None = None,
) -> Done:
    """Run a program to its end and return what it wrote.

    stdin    its input, or the pieces of it, each asked for when the one before was taken
    timeout  seconds for the whole run; afterwards its process group is killed and TimedOut is raised
    log      a file to append standard output and error to, as they come
    on_line  called with each finished line of either
    silence  seconds without a word after which it counts as hanging: the same as after `timeout`
    mask     secrets: *** stands for them in all that is returned, logged, raised, or told to on_line
    Raises CommandFailed (status, last lines) unless `check` is False; EnvironmentLacks if there is no such program;
    KeyboardInterrupt after `stop_all`.
    """
    setpriv = shutil.which("setpriv")
    guarded = [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else list(argv)
    if shutil.which(argv[0], path=(env or os.environ).get("PATH")) is None:
        raise EnvironmentLacks(f"the program {argv[0]} is missing")
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process)
        _running.add(process)
        stack.callback(_running.discard, process)
        deadline = time.monotonic() + timeout
        stdout, lines = _converse(process, stdin, deadline, sink, on_line, argv[0], mask, silence)
        try:
            # It may have closed its outputs long before its end.
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise _late(argv[0], lines) from None
    if _stopped.is_set():
        raise KeyboardInterrupt
    tail = "\n".join(lines[-TAIL:])
    if check and status != 0:
        raise CommandFailed(list(argv), status, tail)
    return Done(status, stdout, tail)


def stop_all() -> None:
    """Ctrl-C for programs that other threads wait for: end them all, and let none of those threads go on."""
    _stopped.set()
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _converse(
    process: subprocess.Popen[bytes],
    stdin: bytes | Iterator[bytes],
    deadline: float,
    sink: IO[bytes] | None,
    on_line: Callable[[str], None] | None,
    name: str,
    mask: Sequence[Secret],
    silence: float | None,
) -> tuple[bytes, list[str]]:
    """Feed standard input and drain both outputs until they close. Lines of standard error first in a tail."""
    assert process.stdin and process.stdout and process.stderr
    out, err = bytearray(), bytearray()
    pending = {process.stdout: bytearray(), process.stderr: bytearray()}
    masks = {pipe: Mask(mask) for pipe in pending}
    pieces = iter((stdin,)) if isinstance(stdin, bytes) else stdin
    rest = memoryview(next(pieces, b""))
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        ready.register(process.stderr, selectors.EVENT_READ)
        if rest:
            os.set_blocking(process.stdin.fileno(), False)
            ready.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while ready.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _late(name, _spoken(out, err))
            events = ready.select(timeout=left if silence is None else min(left, silence))
            if not events and silence is not None and left > silence:
                raise _late(name, _spoken(out, err), f"said nothing for {silence:.0f} s")
            for key, _ in events:
                if key.fileobj is process.stdin:
                    try:
                        rest = rest[os.write(process.stdin.fileno(), rest[:65536]) :]
                        rest = rest or memoryview(next(pieces, b""))
                    except BrokenPipeError:
                        rest = rest[:0]
                    if not rest:
                        ready.unregister(process.stdin)
                        process.stdin.close()
                    continue
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                data = os.read(pipe.fileno(), 65536)
                if not data:
                    ready.unregister(pipe)
                if mask:
                    data = masks[pipe].feed(data, last=not data)
                if not data:
                    continue
                (out if pipe is process.stdout else err).extend(data)
                if sink:
                    sink.write(data)
                    sink.flush()
                if on_line:
                    pending[pipe].extend(data)
                    *full, rest_line = pending[pipe].split(b"\n")
                    pending[pipe] = bytearray(rest_line)
                    for line in full:
                        on_line(line.decode(errors="replace").rstrip())
    return bytes(out), _spoken(out, err)


def _spoken(out: bytearray, err: bytearray) -> list[str]:
    """The lines that hold something: of standard error, or of the output when that has none."""
    for pipe in (err, out):
        lines = [line for line in pipe.decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines
    return []


def _late(name: str, lines: Sequence[str], why: str = "did not end in time") -> TimedOut:
    last = lines[-1].strip() if lines else "nothing"
    return TimedOut(f"{name} {why}; it last said: {last}", why=why)


def start_detached(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> int:
    """Start a program that outlives us, output to `log`; its pid, which is also its session's."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip
    # Ours to reap only while we live; init takes it afterwards.
    process.returncode = 0
    return process.pid


@contextlib.contextmanager
def beside(argv: Sequence[str], pause: float = 1.0) -> Iterator[None]:
    """A program that runs as long as the context is open: one that ends before is started again after a pause."""
    setpriv = shutil.which("setpriv")
    guarded = [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else list(argv)
    over = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        # The kernel's signal comes at the end of the thread that started the program, so one thread does it all.
        while not over.is_set():
            process = subprocess.Popen(
                guarded, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            running[:] = [process]
            if over.is_set():
                _end(process)
            process.wait()
            over.wait(pause)

    program(argv[0], argv[0])
    thread = threading.Thread(target=keep, name=argv[0], daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        for process in running:
            _end(process)
        thread.join()


def attached(
    argv: Sequence[str], env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> int:
    """Run a program with our own input and output, to its end; its exit status. Ctrl-C is the program's."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.getsignal(signal.SIGINT)
    # A handler, not SIG_IGN: the program would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(list(argv), check=False, env=env, pass_fds=pass_fds).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def lives(pid: int) -> bool:
    """Whether the process is there and has not ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by an interactive program (ssh, virsh console, a shell)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(argv[0], list(argv))
