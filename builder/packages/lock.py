"""A recipe's lock: the exact packages of every part, as a file that people keep beside the recipe, and its differences.

    recipe.lock   JSON: {"version": 1, "key": ..., "epoch": ..., "parts": [[PACKAGE...]...]}
    PACKAGE       [name, version, architecture, sha256, bytes]

`key` is the digest of what was asked for (suite and package names, part by part): a lock with another key is stale.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from builder.errors import InputError, Problem, shown
from builder.language.recipe import Flat
from builder.plan import Facts
from builder.steps import Locked

VERSION = 1


def key(recipe: Flat) -> str:
    """Digest of the questions that the lock answers. Orders inside a part do not matter."""
    asked = [
        recipe.suite,
        recipe.kernel.package,
        [sorted(p for p, _ in part.packages) for part in recipe.parts],
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def to_json(facts: Facts, key: str) -> str:
    parts = [[list(astuple(p)) for p in part] for part in facts.packages]
    rows = ",\n".join("[" + ",\n ".join(json.dumps(p) for p in part) + "]" for part in parts)
    return (
        f'{{"version": {VERSION}, "key": "{key}", "epoch": {facts.epoch}, "parts": [\n{rows}\n]}}\n'
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
        return Facts(data["epoch"], parts), str(data["key"])
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


def _locked(row: Any) -> Locked:
    """A package of the lock. ValueError for what Debian would not call so: names reach a shell."""
    found = Locked(*row)
    for name, pattern in _FIELDS.items():
        value = getattr(found, name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{shown(value)} is no package's {name}")
    if type(found.size) is not int or found.size <= 0:
        raise ValueError(f"{shown(found.size)} is no package's size")
    return found


def difference(old: Facts | None, new: Facts) -> list[tuple[str, str, str]]:
    """(package, old version or "-", new version or "-") of all that changed, by name."""
    before, after = (_versions(f) for f in (old, new))
    names = sorted(before.keys() | after.keys())
    return [
        (n, before.get(n, "-"), after.get(n, "-")) for n in names if before.get(n) != after.get(n)
    ]


def _versions(facts: Facts | None) -> dict[str, str]:
    parts: Iterable[tuple[Locked, ...]] = facts.packages if facts else ()
    return {p.name: p.version for part in parts for p in part}
