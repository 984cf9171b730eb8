"""`phx image import`, `cat`, `ls`, `cp`, `customize`: what is inside an image of the catalog, ours or not."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Terminal, home

if TYPE_CHECKING:
    from builder.images.inside.customize import Act
    from builder.images.inside.interior import Entry

Image = Annotated[
    str, typer.Argument(metavar="NAME", help="Name, name:version or the first digits of its id.")
]
Inner = Annotated[str, typer.Argument(metavar="PATH", help="Where it is in the image, absolute.")]


def import_(
    file: Annotated[Path, typer.Argument(help="A disk with one Linux system on it.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the image; else as the file.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Its version; else the system's.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="qcow2, raw, vmdk or vhd; else as it looks.")
    ] = None,
    cmdline: Annotated[
        str | None, typer.Option("--cmdline", help="Kernel parameters; else those of its GRUB.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make an image of a disk that was not built here: cloud images, other hypervisors' machines."""
    from builder.images.inside.adopt import adopt
    from builder.images.inside.door import Door

    terminal = Terminal()
    door = Door(home(), terminal.report)
    called = _named(name if name is not None else _plain(file))
    made, fresh = adopt(
        file, form, called, version, cmdline, door.catalog, door.changing, _now(), terminal.report
    )
    if as_json:
        terminal.json({"id": made.id, "name": made.name, "version": made.version, "made": fresh,
                       "contextualization": made.contextualization, "network": made.network})  # fmt: skip
        return
    what = "is image" if fresh else "was imported already: image"
    terminal.say(
        f"{made.name} {made.version} {what} {made.short}, {made.stored >> 20} MiB, {len(made.packages)} packages, "
        f"kernel {made.kernel}, contextualized by {_by(made.contextualization, made.network)}"
    )


def _by(who: str, network: str) -> str:
    if who != "none":
        return who
    return f"us before its first boot (network: {network or 'unknown'})"


def _plain(file: Path) -> str:
    """A name from the file's: debian-12-generic-amd64.qcow2 is debian-12-generic-amd64."""
    import re

    return re.sub(r"[^a-z0-9]+", "-", file.name.partition(".")[0].lower()).strip("-")[:40]


def _named(text: str) -> str:
    from builder.errors import InputError, Problem
    from builder.language.kinds import name_of

    try:
        return name_of(text)
    except ValueError as cause:
        raise InputError(Problem("--name", *str(cause).split("; "))) from None


def _inner(path: str) -> str:
    """An absolute path in an image. InputError for another."""
    from builder.errors import InputError, Problem

    if not path.startswith("/"):
        raise InputError(Problem("", f"'{path}' is not absolute", "paths in an image begin with /"))
    return path


def cat(name: Image, path: Inner) -> None:
    """Write a file of an image to standard output."""
    from builder.images.inside.door import Door

    terminal = Terminal()
    door = Door(home(), terminal.report)
    with door.reading(door.catalog.get(name)) as inside:
        terminal.raw(inside.read(_inner(path)))


def list_inside(name: str, path: str, as_json: bool) -> None:
    """What `phx image ls NAME PATH` prints."""
    from dataclasses import asdict

    from builder.images.inside.door import Door

    terminal = Terminal()
    door = Door(home(), terminal.report)
    with door.reading(door.catalog.get(name)) as inside:
        found = inside.list(_inner(path))
    if as_json:
        terminal.json([{**asdict(e), "mode": f"{e.mode:04o}"} for e in found])
    else:
        terminal.table(("MODE", "OWNER", "SIZE", "CHANGED", "NAME"), [_row(e) for e in found])


def _row(entry: Entry) -> tuple[str, ...]:
    kinds = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK, "other": 0}
    at = datetime.datetime.fromtimestamp(entry.mtime, datetime.UTC)
    name = f"{entry.name} -> {entry.target}" if entry.kind == "link" else entry.name
    mode = stat.filemode(kinds[entry.kind] | entry.mode)
    return mode, f"{entry.uid}:{entry.gid}", str(entry.size), f"{at:%Y-%m-%d %H:%M}", name


def copy(
    name: Image,
    path: Inner,
    into: Annotated[Path, typer.Argument(help="The file or folder to make here.")],
) -> None:
    """Copy a file or a folder out of an image."""
    from builder.errors import InputError, Problem
    from builder.images.inside.door import Door

    terminal = Terminal()
    if into.is_dir():
        into = into / (Path(path).name or "root")
    if into.exists():
        raise InputError(Problem("", f"{into} is there already", "name another, or remove it"))
    if not into.absolute().parent.is_dir():
        raise InputError(Problem("", f"there is no folder {into.parent}"))
    door = Door(home(), terminal.report)
    with door.reading(door.catalog.get(name)) as inside:
        inside.take(_inner(path), into.absolute())
    terminal.say(f"{path} of {name} is {into}")


def customize(
    name: Image,
    as_: Annotated[str, typer.Option("--name", help="What to call the new image.")],
    version: Annotated[
        str | None, typer.Option("--version", help="Its version; else as the old one's.")
    ] = None,
    copies: Annotated[
        list[str] | None,
        typer.Option("--copy", metavar="FILE:PATH", help="Copy a file or a folder in."),
    ] = None,
    writes: Annotated[
        list[str] | None, typer.Option("--write", metavar="PATH=TEXT", help="Write a line.")
    ] = None,
    removals: Annotated[
        list[str] | None, typer.Option("--remove", metavar="PATH", help="Remove a file.")
    ] = None,
    commands: Annotated[
        list[str] | None, typer.Option("--run", metavar="COMMAND", help="Run it in the image.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make another image of one: files copied in, written, removed, then commands run; offline."""
    from builder.images.inside.customize import Command, Copy, Put, Remove
    from builder.images.inside.customize import customize as customized
    from builder.images.inside.door import Door

    terminal = Terminal()
    door = Door(home(), terminal.report)
    parent = door.catalog.get(name)
    acts: list[Act] = [
        Copy(Path(a), _inner(b)) for a, b in _pairs(copies, ":", "--copy", "FILE:PATH")
    ]
    acts += [Put(_inner(a), b + "\n") for a, b in _pairs(writes, "=", "--write", "PATH=TEXT")]
    acts += [Remove(_inner(path)) for path in removals or []]
    acts += [Command(text) for text in commands or []]
    if not acts:
        from builder.errors import InputError, Problem

        hint = "say what, with --copy, --write, --remove or --run"
        raise InputError(Problem("", "there is nothing to change", hint))
    made, fresh = customized(
        parent, acts, _named(as_), version or parent.version, door.catalog, door.changing, _now(),
        terminal.report,
    )  # fmt: skip
    if as_json:
        terminal.json({"id": made.id, "name": made.name, "parent": parent.id, "made": fresh})
        return
    what = "is image" if fresh else "was made already: image"
    terminal.say(f"{made.name} {made.version} {what} {made.short}, of {parent.name} {parent.short}")


def _pairs(texts: list[str] | None, mark: str, option: str, form: str) -> list[tuple[str, str]]:
    from builder.errors import InputError, Problem

    texts = texts or []
    wrong = [text for text in texts if not all(text.partition(mark)[::2])]
    if wrong:
        raise InputError(Problem(option, f"'{text}' is not {form}") for text in wrong)
    return [(text.rpartition(mark) if mark == ":" else text.partition(mark))[::2] for text in texts]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
