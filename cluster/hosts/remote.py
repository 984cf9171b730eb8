"""The only door to fabric: the reach of a host over SSH, with the keys and names that its ssh_config(5) says.

Commands and files go over one connection of fabric's, which is opened anew when it was cut. Sockets are forwarded by
OpenSSH, which can do that for Unix sockets (ssh(1), -L) and paramiko cannot; it carries images too, being quicker.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from builder.errors import (
    CommandFailed,
    EnvironmentLacks,
    InputError,
    Problem,
    TimedOut,
    WorkFailed,
)
from builder.images.manifest import Manifest
from builder.plan import Report
from builder.run import TAIL, beside, run
from cluster.hosts import transport
from cluster.hosts.host import STATE, Host
from cluster.hosts.reach import Queues, Space
from cluster.hosts.tc import Tc

PATIENCE = 30
"""Seconds that a host has to answer a connection: an emulated one takes some for its keys alone."""
QUICK = 60.0
"""Seconds for a command that has little to do."""
ALIVE = 15
"""Seconds of silence after which a host is asked whether it is there."""
MUCH = 1 << 20
"""Bytes from which on OpenSSH carries them: 12 MB/s into an emulated host, where paramiko's packets make 1 to 2."""

# The folder may not be there yet, and whoever asks changes nothing.
_SPACE = (
    'd=$1; while [ -n "$d" ] && [ ! -e "$d" ]; do d=${d%/*}; done; '
    'df -B1 --output=avail "${d:-/}" && { du -sB1 "$1" 2>/dev/null || echo 0; }'
)


class There:
    """See `Reach`. Nothing is opened before it is needed.

    held  whether the connection stays when we are closed
    """

    def __init__(self, host: Host, held: bool = False) -> None:
        self.host, self._held = host, held
        self._lock = threading.RLock()
        self._connection: Any = None

    # commands

    def run(self, argv: Sequence[str], *, timeout: float, data: bytes = b"") -> str:
        command = shlex.join(argv)
        if len(data) > MUCH:
            status, out, err = self._pour(command, timeout, iter([data]))
        else:
            status, out, err = self._do(command, timeout, data)
        if status != 0:
            lines = (err or out).strip().splitlines()
            raise CommandFailed([f"{self.host.name}:", *argv], status, "\n".join(lines[-TAIL:]))
        return out

    def _pour(self, command: str, timeout: float, data: Iterator[bytes]) -> tuple[int, str, str]:
        """The same as `_do` for much data, piece by piece."""
        name = self.host.name
        argv = [
            "ssh",
            "-F",
            self.host.ssh,
            "-o",
            "BatchMode=yes",
            "-o",
            "ControlPath=none",
            name,
            command,
        ]
        done = run(argv, timeout=timeout, stdin=data, check=False)
        # 255 is ssh's own (ssh(1), EXIT STATUS); below 0 it was killed.
        if done.status == 255 or done.status < 0:
            self._cut(command.split(maxsplit=1)[0], done.tail)
        return done.status, done.text, done.tail

    def _cut(self, doing: str, why: str) -> NoReturn:
        raise WorkFailed(
            f"host '{self.host.name}': the connection was cut during {doing}",
            "run the same command again: it goes on",
        ) from WorkFailed(why)

    def _do(self, command: str, timeout: float, data: bytes = b"") -> tuple[int, str, str]:
        """(status, output, error output) of a command that is fed `data`."""
        name = command.split(maxsplit=1)[0]
        deadline = time.monotonic() + timeout
        with self._said(name), contextlib.closing(self._session()) as session:
            session.settimeout(timeout)
            session.exec_command(command)
            with contextlib.suppress(OSError):  # it ended before it had all: it says why
                session.sendall(data)
                session.shutdown_write()
            out = bytearray()
            while chunk := session.recv(1 << 16):
                out += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
            err = session.makefile_stderr("rb").read()
            if not session.status_event.wait(max(0.1, deadline - time.monotonic())):
                raise TimeoutError
            status = session.recv_exit_status()
            if status < 0:
                raise EOFError
        return status, out.decode(errors="replace"), err.decode(errors="replace")

    @contextlib.contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        """What fabric and paramiko raise, as our own."""
        import paramiko

        try:
            yield
        except TimeoutError:
            raise TimedOut(f"host '{self.host.name}': {doing} did not end in time") from None
        except (paramiko.SSHException, OSError, EOFError) as cause:
            self._cut(doing, str(cause) or "the other side ended it")

    def _session(self) -> Any:
        return self._open().transport.open_session(timeout=PATIENCE)

    def _open(self) -> Any:
        """The connection, opened if there is none or it was cut. EnvironmentLacks if the host does not answer."""
        import paramiko
        from fabric import Config, Connection

        with self._lock:
            held = self._connection
            if held is not None and held.is_connected:
                return held
            name = self.host.name
            connection = Connection(
                name, config=Config(runtime_ssh_path=self.host.ssh), connect_timeout=PATIENCE
            )
            told = connection.ssh_config
            # Fabric would take any key. Whose key this is, the file says.
            connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            for known in shlex.split(told.get("userknownhostsfile", "~/.ssh/known_hosts")):
                with contextlib.suppress(OSError):
                    connection.client.load_host_keys(str(Path(known).expanduser()))
            _alias(connection)
            try:
                connection.open()
            except (paramiko.SSHException, OSError, EOFError) as cause:
                raise EnvironmentLacks(
                    f"host '{name}' does not answer over SSH: {cause}",
                    f"phx host ls shows what runs; ssh -F {self.host.ssh} {name} to look",
                ) from cause
            connection.transport.set_keepalive(ALIVE)
            self._connection = connection
            return connection

    # files

    def folders(self, *wanted: tuple[PurePosixPath, int, int]) -> None:
        script = [
            f"mkdir -p {shlex.quote(str(path))} && chmod {mode:o} {shlex.quote(str(path))} && "
            f"chown {owner}:{owner} {shlex.quote(str(path))}"
            for path, mode, owner in wanted
        ]
        self.run(["sh", "-c", " && ".join(script)], timeout=QUICK)

    def write(self, path: PurePosixPath, data: bytes, mode: int, owner: int) -> None:
        # One command instead of five questions of SFTP. The umask comes first: no moment in which others may read.
        final, aside = shlex.quote(str(path)), shlex.quote(f"{path}.new")
        self.run(
            ["sh", "-c", f"umask 077; rm -f {aside}; cat >{aside} && chmod {mode:o} {aside} && "
             f"chown {owner}:{owner} {aside} && mv -f {aside} {final}"],
            timeout=QUICK + len(data) / 1e6, data=data,
        )  # fmt: skip

    def put(self, source: Path, path: PurePosixPath, mode: int, owner: int) -> None:
        self.write(path, source.read_bytes(), mode, owner)
        source.unlink()

    def tail(self, path: PurePosixPath, size: int) -> bytes:
        script = f"tail -c {size} {shlex.quote(str(path))} 2>/dev/null || :"
        return self.run(["sh", "-c", script], timeout=QUICK).encode()

    def remove(self, *paths: PurePosixPath) -> None:
        if paths:
            self.run(["rm", "-rf", "--", *map(str, paths)], timeout=QUICK)

    def bring(self, image: Manifest, folder: Path, report: Report) -> None:
        transport.bring(self._pour, self.host, image, folder, report)

    def space(self) -> Space:
        _, free, taken, *_ = self.run(["sh", "-c", _SPACE, "sh", str(STATE)], timeout=QUICK).split()
        return Space(int(free), int(taken))

    # sockets and queues

    @contextlib.contextmanager
    def sockets(self, paths: Mapping[str, PurePosixPath]) -> Iterator[Mapping[str, Path]]:
        if not paths:
            yield {}
            return
        with tempfile.TemporaryDirectory(prefix="phx-") as folder:
            # Numbers: a socket's path has 107 bytes.
            here = {name: Path(folder) / str(n) for n, name in enumerate(sorted(paths))}
            forwards = [w for name, path in here.items() for w in ("-L", f"{path}:{paths[name]}")]
            argv = ["ssh", "-F", self.host.ssh, "-N", "-o", "ControlPath=none", "-o", "LogLevel=ERROR",
                    "-o", "StreamLocalBindUnlink=yes", "-o", "ServerAliveInterval=5",
                    "-o", f"ConnectTimeout={PATIENCE}", *forwards, self.host.name]  # fmt: skip
            with beside(argv):
                yield here

    def listen(self, address: str, port: int) -> socket.socket:
        raise InputError(
            Problem("", f"nobody can listen at {address}:{port} of host '{self.host.name}' from here",
                    "channel: virtio works there")
        )  # fmt: skip

    @contextlib.contextmanager
    def queues(self) -> Iterator[Queues]:
        yield Tc(self)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and not self._held:
                self._connection.close()
                self._connection = None


def _alias(connection: Any) -> None:
    """Let the keys that are known under the file's HostKeyAlias be those of the address: paramiko knows no alias."""
    keys, alias = connection.client.get_host_keys(), connection.ssh_config.get("hostkeyalias", "")
    port = connection.port
    asked = connection.host if port == 22 else f"[{connection.host}]:{port}"
    for kind, key in (keys.lookup(alias) or {}).items() if alias else ():
        keys.add(asked, kind, key)
