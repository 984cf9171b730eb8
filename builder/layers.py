"""The layer store: what each step changed, kept by the step's id, and the chamber in which the next step runs.

    <root>/<id>/tree      the step's difference to its parent (overlayfs upper folder)
    <root>/<id>/layer.json  parent, kind, title, seconds; written before the folder gets its name
    <root>/tmp/...        work in progress; anything here that no running build holds is rubbish

A layer appears by one rename, so it is whole or absent. A step runs in a *chamber*: mount, process and network
namespaces of its own, so its mounts and processes are gone with it however it ends, and it reaches no network. For
an ordinary user they are inside a user namespace (builder/rights.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import CommandFailed, WorkFailed
from builder.rights import demand_own, remove, rights
from builder.run import Done, program, run

SHORT = 20
"""Hex digits of a layer's id in its folder's name: mount(2) takes one page of options, 170 such layers."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is remembered of a layer. `seconds` is what it cost to make."""

    id: str
    parent: str
    kind: str
    title: str
    seconds: float


class LayerStore:
    """Layers in one folder, shared by every build on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        demand_own(root)

    def folder(self, layer: str) -> Path:
        return self.root / layer[:SHORT]

    def has(self, layer: str) -> bool:
        return (self.folder(layer) / "layer.json").is_file()

    def info(self, layer: str) -> LayerInfo:
        return LayerInfo(**json.loads((self.folder(layer) / "layer.json").read_text()))

    @contextlib.contextmanager
    def making(self, layer: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the right to make this layer; `waiting` is told when another build has it."""
        path = self.root / "tmp" / f"{layer[:SHORT]}.lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def begin(self, below: Sequence[str]) -> Iterator[Chamber]:
        """A chamber over the layers `below` (oldest first). What is not committed is removed at the end."""
        self._sweep()
        work = self.root / "tmp" / f"work-{uuid.uuid4().hex[:12]}"
        for name in ("tree", "work", "merged"):
            (work / name).mkdir(parents=True)
        with (work / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            try:
                yield Chamber(self.root, work, tuple(layer[:SHORT] for layer in below))
            finally:
                remove(work)

    def commit(self, chamber: Chamber, info: LayerInfo) -> None:
        """Keep what the chamber's step changed as layer `info.id`."""
        target = self.folder(info.id)
        made = self.root / "tmp" / f"done-{uuid.uuid4().hex[:12]}"
        made.mkdir()
        try:
            (chamber.work / "tree").rename(made / "tree")
            text = {name: getattr(info, name) for name in info.__slots__}
            (made / "layer.json").write_text(json.dumps(text, sort_keys=True) + "\n")
            made.rename(target)
        except OSError as cause:
            remove(made)
            if target.exists():
                return  # another build was faster; its bytes are as good
            raise WorkFailed(f"cannot keep layer {info.id[:12]}") from cause

    def use(self, layer: str) -> None:
        """Note that the layer was used now."""
        with contextlib.suppress(OSError):
            os.utime(self.folder(layer) / "layer.json")

    def prune(self, needed: Collection[str], older: float) -> int:
        """Remove layers that are not `needed` and were not used for `older` seconds; how many there were."""
        keep = {layer[:SHORT] for layer in needed}
        count = 0
        self._sweep()
        for path in self.root.glob("*/layer.json"):
            if path.parent.name in keep or time.time() - path.stat().st_mtime < older:
                continue
            # Aside first: a layer is whole or absent, also for a build that looks right now.
            aside = self.root / "tmp" / f"done-{uuid.uuid4().hex[:12]}"
            with contextlib.suppress(OSError):
                path.parent.rename(aside)
                remove(aside)
                count += 1
        return count

    def _sweep(self) -> None:
        """Remove the work of builds that died: their `alive` file is no longer locked."""
        for work in (self.root / "tmp").glob("work-*"):
            with contextlib.suppress(OSError), (work / "alive").open() as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(work)
        for done in (self.root / "tmp").glob("done-*"):
            if time.time() - done.stat().st_mtime > 3600:
                remove(done)


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
    ) -> Done:
        """Run `sh -eu` as root in the merged tree.

        binds  (folder here, folder in the tree) pairs, shared for the time of the step
        epoch  its SOURCE_DATE_EPOCH
        There is no network but a dead loopback: what a step needs is in the tree or bound into it.
        """
        merged = shlex.quote(str(self.work / "merged"))
        extra = "".join(
            f'mkdir -p "$m{inner}"; mount --bind {shlex.quote(str(outer))} "$m{inner}"\n'
            for outer, inner in binds
        )
        # The script goes in the environment so that standard input stays free for the step's data.
        setup = f"""set -eu
m={merged}
{self._overlay()}
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
{extra}
exec chroot "$m" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true TMPDIR=/tmp SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
  sh -euc "$PHX_SCRIPT"
"""
        return self._run(setup, script, stdin, timeout, log, on_line, epoch)

    def outside(
        self, script: str, *, timeout: float, log: Path | None = None, epoch: int = 0,
        on_line: Callable[[str], None] | None = None,
    ) -> Done:  # fmt: skip
        """Run `sh -eu` with our own programs; `$m` is the merged tree (or the empty tree when nothing is below)."""
        merged = shlex.quote(str(self.work / "merged"))
        setup = f'set -eu\nexport m={merged}\n{self._overlay()}\nexec sh -euc "$PHX_SCRIPT"\n'
        return self._run(setup, script, b"", timeout, log, on_line, epoch)

    def _overlay(self) -> str:
        if not self.below:
            return f'mount --bind {shlex.quote(str(self.tree))} "$m"'
        # Relative names, newest first: absolute ones would fill mount(2)'s one page after 30 layers.
        lower = ":".join(f"{name}/tree" for name in reversed(self.below))
        here = self.work.relative_to(self.root)
        return (
            f"cd {shlex.quote(str(self.root))}\n"
            f"mount -t overlay overlay -o {rights().overlay}lowerdir={lower},upperdir={here}/tree,workdir={here}/work "
            '"$m"\ncd /'
        )

    def _run(
        self, setup: str, script: str, stdin: bytes, timeout: float,
        log: Path | None, on_line: Callable[[str], None] | None, epoch: int,
    ) -> Done:  # fmt: skip
        argv = [
            program("unshare", "util-linux"),
            *rights().prefix,
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
        ]
        # The caller's umask must not show in the layer.
        argv += ["--kill-child", "--mount-proc", "--net", "sh", "-c", f"umask 022\n{setup}"]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PHX_SCRIPT": script, "LC_ALL": "C.UTF-8"}
        env["SOURCE_DATE_EPOCH"] = str(epoch)
        try:
            return run(argv, timeout=timeout, stdin=stdin, env=env, log=log, on_line=on_line)
        except CommandFailed as cause:
            # The program the user knows is the script, not unshare.
            raise CommandFailed(["sh"], cause.status, cause.tail) from None
