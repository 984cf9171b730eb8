"""The chamber in which one step runs: mount, process and network namespaces of its own over the layers below.

Its mounts and processes are gone with it however it ends, and it reaches no network. For an ordinary user they are
inside a user namespace (builder/rights.py).
"""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import CommandFailed, TimedOut
from builder.rights import rights
from builder.run import Done, attached, program, run
from builder.secrets import Secret

_FURNISH = """\
mount -t proc proc "$m/proc"
mount -t sysfs -o ro sysfs "$m/sys"
mount -t tmpfs -o mode=755 dev "$m/dev"
mkdir "$m/dev/pts" "$m/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,gid=5,mode=620 devpts "$m/dev/pts"
ln -s pts/ptmx "$m/dev/ptmx"
for d in null zero full random urandom tty; do : > "$m/dev/$d"; mount --bind /dev/$d "$m/dev/$d"; done
ln -s /proc/self/fd "$m/dev/fd"; ln -s fd/0 "$m/dev/stdin"; ln -s fd/1 "$m/dev/stdout"; ln -s fd/2 "$m/dev/stderr"
mount -t tmpfs -o mode=755 run "$m/run"
mount -t tmpfs -o mode=1777 tmp "$m/tmp"
"""


@dataclass(frozen=True, slots=True)
class Chamber:
    """Where one step runs. `work/tree` collects its changes; `below` are the layers under it, oldest first."""

    root: Path
    work: Path
    below: tuple[str, ...]

    @property
    def tree(self) -> Path:
        return self.work / "tree"

    def inside(
        self,
        script: str,
        *,
        stdin: bytes = b"",
        timeout: float,
        binds: Sequence[tuple[Path, str]] = (),
        log: Path | None = None,
        epoch: int = 0,
        on_line: Callable[[str], None] | None = None,
        mask: Sequence[Secret] = (),
        silence: float | None = None,
    ) -> Done:
        """Run `sh -eu` as root in the merged tree.

        binds  (folder here, folder in the tree) pairs, for the time of the step, read-only
        epoch  its SOURCE_DATE_EPOCH
        silence  seconds without a word after which it counts as hanging
        mask   secrets that must not be seen in anything that it says
        There is no network but a dead loopback: what a step needs is in the tree or bound into it.
        """
        setup = self._inside(binds, "")
        return self._run(setup, script, stdin, timeout, log, on_line, epoch, mask, silence)

    def attend(
        self,
        script: str,
        *,
        files: bytes = b"",
        binds: Sequence[tuple[Path, str]] = (),
        epoch: int = 0,
    ) -> int:
        """Run `sh -eu` as root in the merged tree with our own input and output; its exit status.

        files  a tar that is unpacked in the tree first; it comes by a descriptor of its own
        """
        fds: tuple[int, ...] = ()
        if files:
            fd = os.memfd_create("files")
            os.write(fd, files)
            os.lseek(fd, 0, os.SEEK_SET)
            script, fds = f"umask 022; tar -x -p -C / <&{fd}; exec {fd}<&-\n{script}", (fd,)
        env = {name: os.environ[name] for name in ("TERM", "COLORTERM") if name in os.environ}
        setup = self._inside(binds, 'TERM="${TERM:-dumb}"')
        try:
            return attached(self._argv(setup), env=env | _environment(script, epoch), pass_fds=fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _inside(self, binds: Sequence[tuple[Path, str]], more: str) -> str:
        merged = shlex.quote(str(self.work / "merged"))
        extra = "".join(
            f'mkdir -p "$m{inner}"; mount --bind {shlex.quote(str(outer))} "$m{inner}"\n'
            # nosuid and the others: without rights over the machine, what a mount has of them cannot be taken off it.
            f'mount -o remount,bind,ro,nosuid,nodev,noexec "$m{inner}"\n'
            for outer, inner in binds
        )
        # The script goes in the environment so that standard input stays free for the step's data.
        return f"""set -eu
m={merged}
{self._overlay()}
{_FURNISH}
{extra}
exec chroot "$m" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 {more} \
  DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true TMPDIR=/tmp SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
  sh -euc "$PHX_SCRIPT"
"""

    def outside(
        self, script: str, *, timeout: float, log: Path | None = None, epoch: int = 0,
        on_line: Callable[[str], None] | None = None, furnished: bool = False,
    ) -> Done:  # fmt: skip
        """Run `sh -eu` with our own programs; `$m` is the merged tree (or the empty tree when nothing is below).

        furnished  whether programs of the tree find in it what `inside` gives them: /proc, /dev, an empty /run and /tmp
        """
        merged = shlex.quote(str(self.work / "merged"))
        setup = f"set -eu\nexport m={merged}\n{self._overlay(bare=True)}\n"
        setup += (_FURNISH if furnished else "") + '\nexec sh -euc "$PHX_SCRIPT"\n'
        return self._run(setup, script, b"", timeout, log, on_line, epoch)

    def _overlay(self, bare: bool = False) -> str:
        """Shell lines that mount the merged tree; `bare` binds the empty tree itself when nothing is below.

        volatile: a step's fsync waits for nothing. dpkg asks for 1,200 in a first layer (2 s), and what
        they protect is thrown away unless the step ends.
        """
        if bare and not self.below:
            return f'mount --bind {shlex.quote(str(self.tree))} "$m"'
        # Relative names, newest first: absolute ones would fill mount(2)'s one page after 30 layers.
        here = self.work.relative_to(self.root)
        lower = ":".join(f"{name}/tree" for name in reversed(self.below)) or f"{here}/none"
        # The kernel marks the work folder of a volatile mount and takes it for no other.
        scratch = f"work/{uuid.uuid4().hex[:8]}"
        (self.work / scratch).mkdir()
        return (
            f"cd {shlex.quote(str(self.root))}\n"
            f"mount -t overlay overlay -o {rights().overlay}volatile,lowerdir={lower},"
            f'upperdir={here}/tree,workdir={here}/{scratch} "$m"\ncd /'
        )

    def _run(
        self, setup: str, script: str, stdin: bytes, timeout: float,
        log: Path | None, on_line: Callable[[str], None] | None, epoch: int,
        mask: Sequence[Secret] = (), silence: float | None = None,
    ) -> Done:  # fmt: skip
        argv, env = self._argv(setup), _environment(script, epoch)
        try:
            return run(
                argv, timeout=timeout, stdin=stdin, env=env, log=log, on_line=on_line, mask=mask,
                silence=silence,
            )  # fmt: skip
        except CommandFailed as cause:
            # The program the user knows is the script, not unshare.
            raise CommandFailed(["sh"], cause.status, cause.tail) from None
        except TimedOut as cause:
            what = cause.what.replace(argv[0], "it", 1)
            raise TimedOut(what, cause.hint, cause.why) from None

    def _argv(self, setup: str) -> list[str]:
        apart = (
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--net",
        )
        # The caller's umask must not show in the layer.
        script = f"umask 022\n{setup}"
        return [program("unshare", "util-linux"), *rights().prefix, *apart, "sh", "-c", script]


def _environment(script: str, epoch: int) -> dict[str, str]:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "PATH": path, "PHX_SCRIPT": script, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(epoch),
    }  # fmt: skip
