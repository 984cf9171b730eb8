"""The kinds of step that a build is made of, and the id of the layer that each makes.

The id of a layer is the sha256 of its parent's id, the step's kind and revision, and what the step told about itself
as canonical JSON; so equal ids mean equal input, wherever and whenever it was built. Raise a step's `rev` when
its execution would make other bytes from the same input (tests/test_steps.py remembers what each revision did
and fails when that changes under the same number).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from builder.language.accounts import Account
from builder.language.flat import Fetched, LocalWheel, Placed, PlacedDirectory


@dataclass(frozen=True, slots=True)
class Locked:
    """One exact package: what apt chose, and the sha256 and bytes of its file."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int

    def told(self) -> list[str]:
        return [self.name, self.version, self.architecture, self.sha256]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A minimal Debian with the root recipe's packages. `packages` as asked, `locked` as apt resolved them."""

    kind: ClassVar[str] = "bootstrap"
    rev: ClassVar[int] = 5
    suite: str
    epoch: int
    packages: tuple[str, ...]
    locked: tuple[Locked, ...]

    def told(self) -> dict[str, Any]:
        return {"suite": self.suite, "epoch": self.epoch, "packages": sorted(self.packages),
                "locked": sorted(p.told() for p in self.locked)}  # fmt: skip

    def title(self) -> str:
        return f"Debian {self.suite}, {len(self.locked)} packages"


@dataclass(frozen=True, slots=True)
class Install:
    """Debian packages on top of what is there."""

    kind: ClassVar[str] = "install"
    rev: ClassVar[int] = 3
    packages: tuple[str, ...]
    locked: tuple[Locked, ...]

    def told(self) -> dict[str, Any]:
        return {"packages": sorted(self.packages), "locked": sorted(p.told() for p in self.locked)}

    def title(self) -> str:
        return f"install {', '.join(self.packages)}"


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """One exact Python package: what pip chose, its file's name and sha256. `name` is normalized (PEP 503)."""

    name: str
    version: str
    file: str
    sha256: str

    def told(self) -> list[str]:
        return [self.name, self.version, self.file, self.sha256]


@dataclass(frozen=True, slots=True)
class Pip:
    """Python packages on top of what is there. `installer` is the pip that installs them, and is not installed.

    local  wheels of the recipe; each is in `locked` too
    """

    kind: ClassVar[str] = "pip"
    rev: ClassVar[int] = 1
    packages: tuple[str, ...]
    installer: LockedWheel
    locked: tuple[LockedWheel, ...]
    local: tuple[LocalWheel, ...] = ()

    def told(self) -> dict[str, Any]:
        return {"packages": sorted(self.packages), "locked": sorted(w.told() for w in self.locked),
                "installer": self.installer.told()}  # fmt: skip

    def fetched(self) -> list[LockedWheel]:
        """Those that an index gives."""
        own = {wheel.sha256 for wheel in self.local}
        all_ = dict.fromkeys((self.installer, *self.locked))
        return [wheel for wheel in all_ if wheel.sha256 not in own]

    def title(self) -> str:
        return f"pip install {_few([*self.packages, *(w.file for w in self.local)])}"


@dataclass(frozen=True, slots=True)
class Accounts:
    """Users without passwords, each with its numbers, and the groups of their own. The order does not matter."""

    kind: ClassVar[str] = "accounts"
    rev: ClassVar[int] = 1
    users: tuple[Account, ...]

    def told(self) -> dict[str, Any]:
        return {
            "users": sorted(
                [u.name, u.uid, u.group if u.gid is None else u.gid, u.home, u.shell,
                 sorted(u.groups), u.system, u.summary]
                for u in self.users
            )
        }  # fmt: skip

    def title(self) -> str:
        return f"users {_few([u.name for u in self.users])}"


@dataclass(frozen=True, slots=True)
class Write:
    """Directories and files with their owners and modes; what is missing above them is made as root's, 0755."""

    kind: ClassVar[str] = "write"
    rev: ClassVar[int] = 2
    files: tuple[Placed | Fetched, ...]
    directories: tuple[PlacedDirectory, ...] = ()

    def told(self) -> dict[str, Any]:
        return {"files": sorted([f.path, f.mode, f.owner, f.sha256] for f in self.files),
                "directories": sorted([d.path, d.mode, d.owner] for d in self.directories)}  # fmt: skip

    def fetched(self) -> list[Fetched]:
        return [f for f in self.files if isinstance(f, Fetched)]

    def title(self) -> str:
        return f"write {_few([*(d.path for d in self.directories), *(f.path for f in self.files)])}"


@dataclass(frozen=True, slots=True)
class Switch:
    """systemd units enabled, disabled, masked."""

    kind: ClassVar[str] = "switch"
    rev: ClassVar[int] = 1
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mask: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        return {k: sorted(v) for k, v in asdict(self).items()}

    def title(self) -> str:
        sets = (("on", self.enable), ("off", self.disable), ("masked", self.mask))
        return "services " + ", ".join(f"{len(units)} {how}" for how, units in sets if units)


@dataclass(frozen=True, slots=True)
class Script:
    """Lines run by `sh -eu` in the tree. The user is only told when it is not root.

    secrets  names; their values are no input of the layer: who needs it made anew changes the script
    """

    kind: ClassVar[str] = "script"
    rev: ClassVar[int] = 2
    name: str
    script: str
    user: str = "root"
    secrets: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        more: dict[str, Any] = {"user": self.user} if self.user != "root" else {}
        if self.secrets:
            more["secrets"] = sorted(self.secrets)
        return {"script": self.script} | more

    def title(self) -> str:
        return f"run: {self.name}"


@dataclass(frozen=True, slots=True)
class Seal:
    """Take out what must not be in an image: identity, keys, caches, logs, package lists."""

    kind: ClassVar[str] = "seal"
    rev: ClassVar[int] = 1

    def told(self) -> dict[str, Any]:
        return {}

    def title(self) -> str:
        return "seal: no machine-id, host keys, caches or logs"


Step = Bootstrap | Install | Pip | Accounts | Write | Switch | Script | Seal


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def told(step: Step) -> dict[str, Any]:
    """All that decides a step's bytes besides the layer below it, ready for JSON."""
    return {"kind": step.kind, "rev": step.rev, "with": step.told()}


def changed(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """In words, which input of a step is another than it was."""
    if before is None or before.get("kind") != now["kind"]:
        return "it is a new step"
    if before["rev"] != now["rev"]:
        return f"phx makes it in another way (revision {before['rev']} -> {now['rev']})"
    old, new = (json.loads(json.dumps(d["with"])) for d in (before, now))
    words = []
    for name in sorted(old.keys() | new.keys()):
        was, will = old.get(name), new.get(name)
        if was == will:
            continue
        if isinstance(was, list) and isinstance(will, list):
            gone, come = (
                [_brief(x) for x in a if x not in b] for a, b in ((was, will), (will, was))
            )
            shown = [*(f"-{x}" for x in gone[:3]), *(f"+{x}" for x in come[:3])]
            more = len(gone) + len(come) - len(shown)
            words.append(f"{name}: {' '.join(shown)}" + (f" and {more} more" if more else ""))
        else:
            words.append(f"{name}: {_brief(was)} -> {_brief(will)}")
    return "; ".join(words) or "its layer is gone"


def _brief(value: object) -> str:
    """A package as name=version, a file as path@digest, a user as in /etc/passwd, a long text as its digest."""
    if isinstance(value, list) and len(value) == 8:
        return ":".join(str(x) for x in value[:5])
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]} {value[1]:04o} {value[2]}"
    if isinstance(value, list) and len(value) == 4:
        if str(value[0]).startswith("/"):
            return f"{value[0]}@{str(value[3])[:8]}"
        return f"{value[0]}={value[1]}"
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:8]


def layer_id(parent: str, step: Step) -> str:
    """sha256 in hex. What the step tells is nested, so that no field of it can pass for the parent or the kind."""
    text = json.dumps({"parent": parent, **told(step)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
