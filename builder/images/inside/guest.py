"""The inside of a disk that we did not build, through libguestfs: the only door to it.

libguestfs boots a machine of its own (builder/images/inside/supermin.py), so that our kernel never mounts a foreign
filesystem: a crafted one would have the whole machine. Devices are named as the disk's own guest sees them: /dev/vda2.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from builder.errors import EnvironmentLacks, TimedOut, WorkFailed
from builder.images.inside.interior import READ_MAX, Entry, Mounts, System
from builder.images.inside.supermin import Machine
from builder.images.manifest import PackageFact

DEADLINE = 600.0
"""Seconds for all that is done with one disk, the machine's start included (7 s under emulation)."""


_ENVIRONMENT = threading.Lock()
"""libguestfs takes the place of its sockets from the environment alone."""


class Libguestfs:
    """One disk, open. A context manager: the machine is gone at its end, and what was written is on the disk."""

    def __init__(
        self, disk: Path, form: str, machine: Machine, *, write: bool = False,
        deadline: float = DEADLINE,
    ) -> None:  # fmt: skip
        """form  raw or qcow2; it is never guessed, since what is on the disk could make it look like another

        Raises EnvironmentLacks without libguestfs, WorkFailed or TimedOut when its machine does not start.
        """
        try:
            import guestfs
        except ImportError:
            raise EnvironmentLacks(
                "libguestfs's Python module is missing", "apt-get install python3-guestfs"
            ) from None
        self._last = ""
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            # Its temporary files carry its process: what has this name in its arguments is ours.
            self._tmp = undo.enter_context(tempfile.TemporaryDirectory(prefix="phx-guestfs-"))
            with _sockets(self._tmp):
                self._g: Any = guestfs.GuestFS(python_return_dict=True)
            undo.callback(self._g.close)
            self._late = undo.enter_context(_deadline(deadline, self._tmp))
            # From here on our own calls go through `_`, where the vendor's errors end.
            g = self._g
            g.set_tmpdir(self._tmp)
            g.set_path(str(machine.folder))
            g.set_backend("direct")
            g.set_backend_settings([] if machine.accelerator == "kvm" else ["force_tcg"])
            g.set_event_callback(self._hear, guestfs.EVENT_APPLIANCE | guestfs.EVENT_LIBRARY)
            # Unused blocks that are discarded become holes in the disk's file.
            discard = "besteffort" if write else "disable"
            with self._vendor(f"{disk} cannot be opened"):
                g.add_drive_opts(str(disk), format=form, readonly=not write, discard=discard)
            with self._vendor("libguestfs's machine does not start"):
                g.launch()
            self._undo = undo.pop_all()

    def __enter__(self) -> Libguestfs:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                # What cannot be written must be told; close() would be silent.
                with self._vendor("what was changed could not be written"):
                    self._g.shutdown()
        finally:
            self._undo.close()

    def systems(self) -> tuple[System, ...]:
        g, found = self._g, []
        with self._vendor("the disk cannot be inspected"):
            for root in g.inspect_os():
                points = g.inspect_get_mountpoints(root)
                mounts = tuple((point, _theirs(points[point])) for point in sorted(points, key=len))
                found.append(
                    System(
                        g.inspect_get_distro(root), g.inspect_get_product_name(root), _version(g, root), mounts,
                        g.vfs_uuid(g.mountable_device(root)), self._packages(root, mounts),
                    )
                )  # fmt: skip
        return tuple(found)

    def _packages(self, root: str, mounts: Mounts) -> tuple[PackageFact, ...]:
        g = self._g
        self.enter(mounts)
        try:
            return tuple(
                sorted(
                    (_package(a) for a in g.inspect_list_applications2(root)),
                    key=lambda p: (p.name, p.architecture, p.version),
                )
            )
        finally:
            g.umount_all()

    def enter(self, mounts: Mounts) -> None:
        with self._vendor("the filesystems cannot be mounted"):
            self._g.umount_all()
            for point, device in mounts:
                try:
                    self._g.mount(_ours(device), point)
                except RuntimeError:
                    # A boot partition that fstab names and that is broken takes nothing from the rest.
                    if point == "/":
                        raise

    def list(self, folder: str) -> tuple[Entry, ...]:
        g = self._g
        with self._vendor(f"{folder} cannot be listed"):
            folder = g.realpath(folder)
            names = g.ls(folder)
            stats = g.lstatnslist(folder, names)
            targets = g.readlinklist(folder, names)
        return tuple(
            Entry(name, _kind(s["st_mode"]), stat.S_IMODE(s["st_mode"]), s["st_uid"], s["st_gid"],
                  s["st_size"], target, s["st_mtime_sec"])
            for name, s, target in zip(names, stats, targets, strict=True)
        )  # fmt: skip

    def read(self, path: str) -> bytes:
        g = self._g
        with self._vendor(f"{path} cannot be read"):
            if not g.is_file(path, followsymlinks=True):
                raise WorkFailed(f"{path} is no file")
            if g.filesize(path) > READ_MAX:
                raise WorkFailed(
                    f"{path} has more than {READ_MAX >> 20} MiB", "copy it: phx image cp"
                )
            return bytes(g.read_file(path))

    def take(self, path: str, into: Path) -> None:
        g = self._g
        with self._vendor(f"{path} cannot be copied"):
            if g.is_file(path, followsymlinks=True):
                g.download(path, str(into))
                return
            path = g.realpath(path)
            if path == "/":
                into.mkdir()
                for name in g.ls("/"):
                    g.copy_out(f"/{name}", str(into))
                return
            with tempfile.TemporaryDirectory(prefix=".phx-", dir=into.parent) as aside:
                g.copy_out(path, aside)
                (Path(aside) / PurePosixPath(path).name).rename(into)

    def write(self, path: str, data: bytes, mode: int, owner: str = "root") -> None:
        g = self._g
        with self._vendor(f"{path} cannot be written"):
            g.mkdir_p(str(PurePosixPath(path).parent))
            if g.is_symlink(path):
                g.rm(path)
            # `write` takes at most 2 MiB of arguments; a file has no such limit.
            with tempfile.NamedTemporaryFile(dir=self._tmp) as file:
                file.write(data)
                file.flush()
                g.upload(file.name, path)
            g.chmod(mode, path)
            g.chown(0, 0, path)
            if owner not in ("root", "root:root"):
                g.command(["chown", owner, path])

    def remove(self, path: str) -> None:
        with self._vendor(f"{path} cannot be removed"):
            self._g.rm_f(path)

    def link(self, path: str, target: str) -> None:
        with self._vendor(f"{path} cannot be linked"):
            self._g.mkdir_p(str(PurePosixPath(path).parent))
            self._g.ln_sf(target, path)

    def put(self, source: Path, path: str) -> None:
        g = self._g
        with self._vendor(f"{path} cannot be copied"):
            g.mkdir_p(path)
            for item in sorted(source.iterdir()):
                g.copy_in(str(item), path)
            # Whoever they belong to here is nobody there.
            for below in ("", *(f"/{name}" for name in g.find(path))):
                g.lchown(0, 0, path + below)

    def run(self, script: str) -> str:
        with self._vendor("a command in the image failed"):
            return str(self._g.command(["/bin/sh", "-euc", script]))

    def trim(self) -> None:
        g = self._g
        with self._vendor("unused blocks cannot be given back"):
            for point in sorted(g.mountpoints().values(), key=len):
                # A filesystem that cannot say which blocks it does not use keeps them.
                with contextlib.suppress(RuntimeError):
                    g.fstrim(point)

    def _hear(self, event: int, handle: int, buffer: str, array: object) -> None:
        lines = [line for line in buffer.splitlines() if line.strip()]
        self._last = lines[-1].strip()[:200] if lines else self._last

    @contextlib.contextmanager
    def _vendor(self, what: str) -> Iterator[None]:
        """libguestfs raises RuntimeError for all that goes wrong; here it becomes an error of ours."""
        try:
            yield
        except RuntimeError as cause:
            if self._late.is_set():
                raise TimedOut(
                    f"{what}: libguestfs did not end in time; its machine last said: {self._last or 'nothing'}"
                ) from None
            raise WorkFailed(f"{what}: {_said(cause, what)}") from None


@contextlib.contextmanager
def _deadline(seconds: float, name: str) -> Iterator[threading.Event]:
    """After `seconds`, kill the machine with `name` in its arguments: every call that waits for it then fails."""
    late, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        late.set()
        while not over.wait(0.5):
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit() and name.encode() in (entry / "cmdline").read_bytes():
                        os.kill(int(entry.name), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="guestfs deadline", daemon=True)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()


def _version(g: Any, root: str) -> str:
    major, minor = g.inspect_get_major_version(root), g.inspect_get_minor_version(root)
    return f"{major}.{minor}" if minor > 0 else str(major)


def _said(cause: RuntimeError, what: str) -> str:
    """Its first line (more is advice), without its function's name and what is said already."""
    text = re.sub(r"^\w+: ", "", str(cause).partition("\n")[0])
    first, _, rest = text.partition(": ")
    return rest if rest and first in what else text


@contextlib.contextmanager
def _sockets(folder: str) -> Iterator[None]:
    """A handle made meanwhile has its sockets in the folder: /tmp, its other choice, may not be ours to write."""
    with _ENVIRONMENT:
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before


def _package(application: Mapping[str, Any]) -> PackageFact:
    epoch, release = application["app2_epoch"], application["app2_release"]
    version = f"{epoch}:" if epoch else ""
    version += application["app2_version"] + (f"-{release}" if release else "")
    name = application["app2_name"]
    source = application["app2_source_package"] or name
    return PackageFact(name, version, application["app2_arch"], source)


def _theirs(mountable: str) -> str:
    """libguestfs attaches the disk as sda; in its own guest it is vda."""
    return mountable.replace("/dev/sda", "/dev/vda", 1)


def _ours(mountable: str) -> str:
    return mountable.replace("/dev/vda", "/dev/sda", 1)


def _kind(mode: int) -> Literal["file", "folder", "link", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"
