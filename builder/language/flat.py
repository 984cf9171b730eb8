"""What a chain of recipes comes to, ready to be planned: nothing in these values depends on a parameter any more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from builder.language.accounts import Account
from builder.language.entries import EXT4, Kernel, Root
from builder.language.kinds import Value


@dataclass(frozen=True, slots=True)
class PlacedDirectory:
    """A directory, ready to go into a tree."""

    path: str
    mode: int
    owner: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A file with its bytes, ready to go into a tree."""

    path: str
    mode: int
    owner: str
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is fetched before its step. `where` is the line that asks for it; the URL is in no layer's id."""

    path: str
    mode: int
    owner: str
    sha256: str
    url: str
    where: str


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive of Debian packages that `key` signs. `where` is the line that names it."""

    name: str
    uri: str
    suite: str
    components: tuple[str, ...]
    key: bytes = field(repr=False)
    snapshot: bool
    where: str

    @property
    def key_file(self) -> str:
        """As apt wants it to be called: by its form."""
        return f"{self.name}.{'asc' if self.key.lstrip().startswith(b'-----') else 'gpg'}"

    def told(self) -> list[object]:
        """What it decides of a lock."""
        digest = hashlib.sha256(self.key).hexdigest()
        return [self.uri, self.suite, list(self.components), digest, self.snapshot]

    def stanza(self, keys: str) -> str:
        """For apt, deb822. `keys` is the folder of the key's file."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {self.suite}"]
        lines += [f"Components: {' '.join(self.components)}"] if self.components else []
        lines += ["Check-Valid-Until: no"] if self.snapshot else []
        return "\n".join([*lines, f"Signed-By: {keys}/{self.key_file}"]) + "\n"


@dataclass(frozen=True, slots=True)
class LocalWheel:
    """A wheel of the recipe's folder."""

    file: str
    data: bytes = field(repr=False)
    where: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Units:
    """systemd units to switch."""

    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mask: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """A script and who runs it. `secrets` are pairs of a name and the `file:line` that asks for it."""

    name: str
    script: str
    user: str = "root"
    secrets: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One recipe of the chain, rendered: nothing in it depends on a parameter any more."""

    recipe: str
    where: str
    packages: tuple[tuple[str, str], ...]
    """(package, `file:line` that asked for it)."""
    users: tuple[Account, ...]
    directories: tuple[PlacedDirectory, ...]
    files: tuple[Placed | Fetched, ...]
    services: Units
    run: tuple[Lines, ...]
    capabilities: tuple[str, ...] = ()
    pip: tuple[tuple[str, str], ...] = ()
    """(Python package, `file:line` that asked for it)."""
    wheels: tuple[LocalWheel, ...] = ()
    archives: tuple[Archive, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckFile:
    """A pytest file of a recipe: its name below the recipe's folder."""

    recipe: str
    folder: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Flat:
    """A recipe with all its parents, root first. `digest` covers every byte that was read for it.

    context       how its nodes join a cluster, as JSON; "" when it says nothing of that
    tests         of the whole chain: a child keeps what its parents promise
    test_cluster  the cluster file for boot tests; "" for a node of the image alone
    variant       which of its recipe's matrix it is; ""
    """

    name: str
    version: str
    summary: str
    suite: str
    kernel: Kernel
    size: int
    parts: tuple[Part, ...]
    parameters: tuple[tuple[str, Value], ...]
    digest: str
    max_age: int | None = None
    context: str = ""
    tests: tuple[CheckFile, ...] = ()
    test_cluster: str = ""
    variant: str = ""
    root: Root = EXT4
    formats: tuple[str, ...] = ()
    requires: tuple[tuple[str, str], ...] = ()

    @property
    def called(self) -> str:
        """As a command line calls it: RECIPE, or RECIPE:VARIANT."""
        recipe = self.name.removesuffix(f"-{self.variant}")
        return f"{recipe}:{self.variant}" if self.variant else self.name

    def archives(self, parts: int | None = None) -> tuple[Archive, ...]:
        """Those of the first `parts` recipes of the chain: a child's do not count for what its parents install."""
        return tuple(archive for part in self.parts[:parts] for archive in part.archives)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Of the whole chain: a child has in its tree what makes its parents able."""
        return tuple(sorted({word for part in self.parts for word in part.capabilities}))
