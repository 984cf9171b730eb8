"""What was seen in a finished tree: Debian packages with their licences, Python packages. Kept beside the image."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

FILE = "inventory.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """One Debian package.

    source    name and version of the source package that it was built from
    licences  what its copyright file calls them, each once, sorted. Empty when the file is not machine-readable (DEP-5)
    mentions  then: the licences of /usr/share/common-licenses that it points to
    """

    name: str
    version: str
    architecture: str
    source: tuple[str, str]
    maintainer: str
    homepage: str
    licences: tuple[str, ...]
    mentions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One Python package, by its metadata. `package` is the Debian package that brought it, "" when none did."""

    name: str
    version: str
    path: str
    licence: str
    homepage: str
    package: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """suite  VERSION_CODENAME of the tree's os-release"""

    suite: str
    debian: tuple[Installed, ...]
    python: tuple[Distribution, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Inventory:
    """Read what `to_json` wrote. ValueError if it is something else."""
    try:
        told = json.loads(text)
        debian = tuple(
            Installed(
                **one
                | {
                    "source": (one["source"][0], one["source"][1]),
                    "licences": tuple(one["licences"]),
                    "mentions": tuple(one["mentions"]),
                }
            )
            for one in told["debian"]
        )
        return Inventory(
            told["suite"], debian, tuple(Distribution(**one) for one in told["python"])
        )
    except (TypeError, KeyError, IndexError, ValueError) as cause:
        raise ValueError(f"not an inventory: {cause}") from None
