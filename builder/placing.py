"""Files on their way into a step: as a tar by standard input, fetched ones as links in a folder beside the tree."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from builder import downloads
from builder.language.flat import Fetched, Placed, PlacedDirectory
from builder.secrets import Secret


def tar_of(
    files: Sequence[Placed], epoch: int, directories: Sequence[PlacedDirectory] = ()
) -> bytes:
    """Directories, then files, as a tar, each in the order of their paths; owners by name, every time `epoch`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in sorted(directories, key=lambda d: d.path):
            entry = _entry(directory, epoch)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for file in sorted(files, key=lambda f: f.path):
            entry = _entry(file, epoch)
            entry.size = len(file.data)
            tar.addfile(entry, io.BytesIO(file.data))
    return packed.getvalue()


def _entry(placed: Placed | PlacedDirectory, epoch: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(placed.path.lstrip("/"))
    entry.mode, entry.mtime = placed.mode, epoch
    user, _, group = placed.owner.partition(":")
    entry.uname, entry.gname = user, group or user
    return entry


def secret_files(secrets: Mapping[str, Secret], user: str, epoch: int) -> bytes:
    files = [
        Placed(f"/run/secrets/{name}", 0o400, user, secret.reveal())
        for name, secret in secrets.items()
    ]
    return tar_of(files, epoch)


def offer(files: Sequence[Fetched], cache: Path, folder: Path) -> None:
    """Make the folder, with exactly these fetched files, by their sha256."""
    folder.mkdir()
    for sha256 in sorted({f.sha256 for f in files}):
        downloads.offer(cache, sha256, folder / sha256)


def copies(files: Sequence[Fetched], epoch: int) -> str:
    """Shell lines that place fetched files as the tar places the others: a link in the place is replaced."""
    lines = []
    for file in sorted(files, key=lambda f: f.path):
        user, _, group = file.owner.partition(":")
        path = shlex.quote(file.path)
        lines += [
            f"mkdir -p {shlex.quote(str(PurePosixPath(file.path).parent))}; rm -f {path}",
            f"cp -T /run/files/{file.sha256} {path}; chown {user}:{group or user} {path}",
            f"chmod {file.mode:04o} {path}; touch -d @{epoch} {path}",
        ]
    return "\n".join(lines)
