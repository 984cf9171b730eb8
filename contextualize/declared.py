"""What roles say of deployment: what their nodes provide, require and complete, read from an image's manifest.

Pure. Requirements are a role's, never a node's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Of = Literal["one", "all", "quorum"] | int


@dataclass(frozen=True, slots=True)
class Provide:
    """how  file, command, tcp, probe, or hook (a hook writes the value); `what` is its argument
    to   roles that may read it; empty: every role that requires it
    """

    name: str
    how: str
    what: str = ""
    secret: bool = False
    to: tuple[str, ...] = ()
    early: bool = False

    @property
    def ready(self) -> bool:
        """Whether it is a readiness: it has no value."""
        return self.how in ("tcp", "probe")


@dataclass(frozen=True, slots=True)
class Require:
    """A fact (of `role`, or of whoever provides it when that is ""), or a stage of `role`."""

    fact: str = ""
    stage: str = ""
    role: str = ""
    of: Of = "one"
    late: bool = False
    """Only the node's health waits for it."""

    def __str__(self) -> str:
        many = "" if self.of == "one" else f" of {self.of}"
        where = f" from {self.role}" if self.role else ""
        return f"{self.fact}{many}{where}" if self.fact else f"{self.role} {self.stage}{many}"


@dataclass(frozen=True, slots=True)
class File:
    """A file that deployment completes: `text` is a template, or `fact` names the fact whose bytes it holds."""

    path: str
    mode: str
    owner: str = "root"
    text: str | None = None
    fact: str = ""
    reload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """What a role says of deployment. `sees` None: its nodes know every node by name."""

    provides: tuple[Provide, ...] = ()
    requires: tuple[Require, ...] = ()
    files: tuple[File, ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    """(tcp or command, its argument)."""
    sees: tuple[str, ...] | None = None

    def __add__(self, other: Declared) -> Declared:
        """Both; what `other` sees, if it says so."""
        return Declared(
            self.provides + other.provides, self.requires + other.requires,
            self.files + other.files, self.probes + other.probes,
            self.sees if other.sees is None else other.sees,
        )  # fmt: skip


def declared(data: Mapping[str, Any]) -> Declared:
    """From an image's manifest. ValueError if it is something else."""
    try:
        return Declared(
            tuple(
                Provide(p["name"], p["how"], str(p.get("what", "")), bool(p.get("secret")),
                        tuple(p.get("to", ())), bool(p.get("early")))
                for p in data.get("provides", ())
            ),
            tuple(
                Require(r.get("fact", ""), r.get("stage", ""), r.get("from", ""), r.get("of", "one"),
                        r.get("before") == "healthy")
                for r in data.get("requires", ())
            ),
            tuple(
                File(f["path"], f["mode"], f.get("owner", "root"), f.get("text"), f.get("fact", ""),
                     tuple(f.get("reload", ())))
                for f in data.get("files", ())
            ),
            tuple((p[0], str(p[1])) for p in data.get("healthy", ())),
            None if data.get("sees") is None else tuple(data["sees"]),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as cause:
        raise ValueError(f"not a declaration of context: {cause}") from None


def givers(roles: Mapping[str, Declared], need: Require) -> list[str]:
    """Roles that provide what `need` asks for."""
    return [
        name
        for name, r in roles.items()
        if need.role in ("", name) and any(p.name == need.fact for p in r.provides)
    ]
