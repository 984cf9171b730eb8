"""The inside of an image whose layers are at hand: read from its tree in milliseconds, where libguestfs takes 8 s."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.chamber import Chamber
from builder.errors import CommandFailed, WorkFailed
from builder.images.inside.interior import READ_MAX, Entry, too_large

TIMEOUT = 600.0
_FORMAT = "%f\\0%y\\0%m\\0%U\\0%G\\0%s\\0%Ts\\0%l\\0"
_KINDS: dict[str, Literal["file", "folder", "link"]] = {"f": "file", "d": "folder", "l": "link"}


@dataclass(frozen=True, slots=True)
class Layered:
    """Over a chamber of the image's layers. Its own programs do the reading, in the tree: no link leads out."""

    chamber: Chamber

    def list(self, folder: str) -> tuple[Entry, ...]:
        script = f"cd -- {shlex.quote(folder)}\nfind . -mindepth 1 -maxdepth 1 -printf '{_FORMAT}'"
        told = self._run(script, f"{folder} cannot be listed")
        words = told.decode(errors="surrogateescape").split("\0")
        rows = zip(*(iter(words),) * 8, strict=False)
        return tuple(
            sorted(
                (Entry(name, _KINDS.get(kind, "other"), int(mode, 8), int(uid), int(gid), int(size),
                       target, int(at))
                 for name, kind, mode, uid, gid, size, at, target in rows),
                key=lambda entry: entry.name,
            )
        )  # fmt: skip

    def read(self, path: str) -> bytes:
        quoted = shlex.quote(path)
        told = self._run(
            f"[ -f {quoted} ] && stat -L -c %s -- {quoted} || echo none", path
        ).decode()
        if told.strip() == "none":
            raise WorkFailed(f"{path} is no file")
        if int(told) > READ_MAX:
            raise too_large(path)
        return self._run(f"cat -- {quoted}", f"{path} cannot be read")

    def take(self, path: str, into: Path) -> None:
        # The tree's own tar packs, as it sees the paths; ours unpacks, beside the tree.
        inner = shlex.quote(
            f'p="$(realpath -e -- {shlex.quote(path)})"\n'
            '[ -d "$p" ] && cd "$p" && exec tar -c . || exec tar -C "${p%/*}/" -c -- "${p##*/}"'
        )
        aside = shlex.quote(str(into))
        script = f"""
mkdir -m 700 {aside}.phx
trap 'rm -rf {aside}.phx' EXIT
chroot "$m" sh -euc {inner} > {aside}.phx/tar
if chroot "$m" test -d {shlex.quote(path)}; then
    mkdir {aside}; tar -x --no-same-owner -p -C {aside} -f {aside}.phx/tar
else
    mkdir {aside}.phx/one; tar -x --no-same-owner -p -C {aside}.phx/one -f {aside}.phx/tar
    mv -- {aside}.phx/one/* {aside}
fi
"""
        try:
            self.chamber.outside(script, timeout=TIMEOUT, furnished=True)
        except CommandFailed as cause:
            raise WorkFailed(f"{path} cannot be copied: {_last(cause)}") from None

    def _run(self, script: str, what: str) -> bytes:
        try:
            return self.chamber.inside(script, timeout=TIMEOUT).stdout
        except CommandFailed as cause:
            raise WorkFailed(f"{what}: {_last(cause)}") from None


def _last(cause: CommandFailed) -> str:
    return cause.tail.strip().splitlines()[-1] if cause.tail.strip() else f"exit {cause.status}"
