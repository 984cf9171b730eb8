"""A recipe's lock: the exact packages of every part, as a file that people keep beside the recipe, and its differences.

    recipe.lock   of a variant: recipe.VARIANT.lock
                  JSON: {"version": 1, "key": ..., "epoch": ..., "parts": [[PACKAGE...]...]}
                  where there are Python packages also "installer": WHEEL, "wheels": [[WHEEL...]...]
    PACKAGE       [name, version, architecture, sha256, bytes]
    WHEEL         [name, version, file name, sha256]

`key` is the digest of what was asked for (suite and package names, part by part): a lock with another key is stale.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from builder.errors import InputError, Problem, shown
from builder.language.flat import Flat
from builder.plan import Facts
from builder.steps import Locked, LockedWheel

VERSION = 1


def beside(folder: Path, recipe: Flat) -> Path:
    """The file of the recipe's lock."""
    return folder / (f"recipe.{recipe.variant}.lock" if recipe.variant else "recipe.lock")


def found(folder: Path, recipe: Flat) -> Path | None:
    """The lock that counts: the recipe's own file; of a variant without one, recipe.lock; None when there is none."""
    own, common = beside(folder, recipe), folder / "recipe.lock"
    return next((path for path in (own, common) if path.is_file()), None)


def key(recipe: Flat) -> str:
    """Digest of the questions that the lock answers. Orders inside a part do not matter."""
    asked: list[Any] = [
        recipe.suite,
        " ".join(recipe.kernel.packages),
        [sorted(p for p, _ in part.packages) for part in recipe.parts],
    ]
    if recipe.archives():
        asked.append([[archive.told() for archive in part.archives] for part in recipe.parts])
    # What a recipe does not ask for does not count: the locks of earlier versions stay good.
    if any(part.pip or part.wheels for part in recipe.parts):
        asked.append(
            [
                [sorted(p for p, _ in part.pip), sorted([w.file, w.sha256] for w in part.wheels)]
                for part in recipe.parts
            ]
        )
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def to_json(facts: Facts, key: str) -> str:
    head = f'{{"version": {VERSION}, "key": "{key}", "epoch": {facts.epoch}, "parts": [\n'
    text = f"{head}{_rows(facts.packages)}\n]"
    if facts.installer is not None:
        installer = json.dumps(facts.installer.told())
        text += f', "installer": {installer}, "wheels": [\n{_rows(facts.wheels)}\n]'
    return text + "}\n"


def _rows(parts: Sequence[Sequence[Locked | LockedWheel]]) -> str:
    """One package a line: people read its differences."""
    return ",\n".join(
        "[" + ",\n ".join(json.dumps(astuple(p)) for p in part) + "]" for part in parts
    )


def from_json(text: str, where: str) -> tuple[Facts, str]:
    """(facts, key). InputError if it is not a lock."""
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}")
        if type(data["epoch"]) is not int or data["epoch"] < 0:
            raise ValueError("epoch: not a time")
        parts = tuple(tuple(_locked(row) for row in part) for part in data["parts"])
        wheels = tuple(tuple(_wheel(row) for row in part) for part in data.get("wheels", ()))
        installer = _wheel(data["installer"]) if "installer" in data else None
        if wheels and (installer is None or len(wheels) != len(parts)):
            raise ValueError("its wheels are of other parts")
        return Facts(data["epoch"], parts, wheels, installer), str(data["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise InputError(
            Problem(where, f"is not a lock ({cause})", "phx lock RECIPE --update writes it anew")
        ) from None


_FIELDS = {
    "name": r"[a-z0-9][a-z0-9+.-]+",
    "version": r"[A-Za-z0-9.+~:-]+",
    "architecture": r"amd64|all",
    "sha256": r"[0-9a-f]{64}",
}


_WHEEL = {
    "name": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?",
    "version": r"[A-Za-z0-9.!+_-]+",
    "file": r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl",
    "sha256": r"[0-9a-f]{64}",
}


def _locked(row: Any) -> Locked:
    found = Locked(*row)
    _demand(found, _FIELDS, "package")
    if type(found.size) is not int or found.size <= 0:
        raise ValueError(f"{shown(found.size)} is no package's size")
    return found


def _wheel(row: Any) -> LockedWheel:
    found = LockedWheel(*row)
    _demand(found, _WHEEL, "wheel")
    return found


def _demand(found: Locked | LockedWheel, fields: Mapping[str, str], noun: str) -> None:
    """ValueError for what nobody would call so: names reach a shell."""
    for name, pattern in fields.items():
        value = getattr(found, name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{shown(value)} is no {noun}'s {name}")


def difference(old: Facts | None, new: Facts) -> list[tuple[str, str, str]]:
    """(package, old version or "-", new version or "-") of all that changed, by name; Python's as "pip NAME"."""
    before, after = (_versions(f) for f in (old, new))
    names = sorted(before.keys() | after.keys())
    return [
        (n, before.get(n, "-"), after.get(n, "-")) for n in names if before.get(n) != after.get(n)
    ]


def _versions(facts: Facts | None) -> dict[str, str]:
    if facts is None:
        return {}
    found = {p.name: p.version for part in facts.packages for p in part}
    return found | {f"pip {w.name}": w.version for part in facts.wheels for w in part}
