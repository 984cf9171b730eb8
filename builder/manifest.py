"""What an image is: its name, its bytes' digests, what is in it, and what it was made from.

The manifest lies beside the image as manifest.json and is the only thing that readers of the catalog parse.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PackageFact:
    """One installed Debian package, as dpkg knows it."""

    name: str
    version: str
    architecture: str
    source: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """id       sha256 over the digests of disk, kernel and initrd: the appliance's identity
    digests  sha256 of each file beside the manifest
    size     bytes of the root filesystem; `stored` bytes on our disk (it is sparse)
    built    UTC, ISO 8601: when this copy was made; not part of the identity
    """

    id: str
    name: str
    version: str
    summary: str
    size: int
    stored: int
    kernel: str
    cmdline: str
    digests: tuple[tuple[str, str], ...]
    packages: tuple[PackageFact, ...]
    plan: str
    recipe_digest: str
    parameters: tuple[tuple[str, Any], ...]
    layers: tuple[str, ...]
    built: str

    @property
    def short(self) -> str:
        return self.id[:12]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Manifest:
    """Read what `to_json` wrote. ValueError or KeyError if it is something else."""
    data = json.loads(text)
    data["digests"] = tuple((k, v) for k, v in data["digests"])
    data["packages"] = tuple(PackageFact(**p) for p in data["packages"])
    data["parameters"] = tuple((k, v) for k, v in data["parameters"])
    data["layers"] = tuple(data["layers"])
    try:
        return Manifest(**data)
    except TypeError as cause:
        raise ValueError(f"not a manifest: {cause}") from None


def identity(digests: dict[str, str]) -> str:
    """The image's id from the digests of its files."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def parse_packages(text: str) -> tuple[PackageFact, ...]:
    """From `dpkg-query -W` lines of name, version, architecture and source, tab between."""
    rows = (line.split("\t") for line in text.splitlines() if line)
    return tuple(
        sorted((PackageFact(*row) for row in rows), key=lambda p: (p.name, p.architecture))
    )
