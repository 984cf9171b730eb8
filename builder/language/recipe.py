"""A chain of recipes turned into one flat, checked recipe: parents first, conditions decided, templates rendered.

A recipe is a folder with `recipe.yaml` and the fragments, templates and files that it names. `from:` names its parent;
the chain may have any depth. The disk is read through `load`, `names` and `real` alone.

What a reader could get wrong: the sections of one recipe always run in the order packages, users, directories, files,
services, run, whatever order they are written in; its fragments' come before its own of the same kind, and all of a
parent's before its child's. Every text in those sections is a jinja2 template over the parameters, with strict
undefined. An entry whose `when` is false is as if it were not written: nothing of it is read or rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.document import Document, Place, by_line
from builder.errors import InputError, Problem, close
from builder.language.accounts import Account, Numbers
from builder.language.chain import Link, Load, Source, chain, decide, names_in, reason
from builder.language.deployment import merged, told
from builder.language.kinds import Value, plain_package, plain_sha256, plain_url
from builder.language.scope import Scope
from builder.language.sections import CapabilityWhen, File, Kernel, PackageWhen, UnitWhen, User

ROOT_SUITES = ("bookworm",)

Fetch = Callable[[Document, Place, str], bytes]


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


@dataclass(frozen=True, slots=True)
class Flat:
    """A recipe with all its parents, root first. `digest` covers every byte that was read for it.

    context  how its nodes join a cluster, as JSON; "" when it says nothing of that
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

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Of the whole chain: a child has in its tree what makes its parents able."""
        return tuple(sorted({word for part in self.parts for word in part.capabilities}))


def load(
    folder: Path,
    library: Path,
    given: Mapping[str, str],
    load: Load = Path.read_bytes,
    names: Callable[[Path], list[str]] = names_in,
    real: Callable[[Path], Path] = Path.resolve,
) -> Flat:
    """The recipe in `folder`, flat.

    library   the folder in which parents are looked up by name
    given     parameter values from the command line, as texts
    load      reads one file
    names     lists the recipes of a library, for a hint
    real      resolves a folder, whose name a recipe must have
    Raises InputError with every problem of every recipe in the chain.
    """
    links = chain(folder, library, load, names, real)
    problems: list[Problem] = []
    decided = decide(links, given, problems)
    digest = hashlib.sha256()
    numbers = Numbers()
    parts = []
    deployments: list[dict[str, Any]] = []

    def keep(name: str, data: bytes) -> None:
        digest.update(f"{name}\0{len(data)}\0".encode() + data)

    for link, values in zip(links, decided.visible, strict=True):
        digest.update(repr(link.recipe).encode())
        for name, fragment in zip(link.recipe.include, link.fragments, strict=True):
            keep(name, fragment.data)

        def fetch(document: Document, place: Place, name: str, link: Link = link) -> bytes:
            try:
                data = load(link.folder / name)
            except OSError as cause:
                what = f"{link.folder / name}: {reason(cause)}"
                problems.append(document.problem(place, what))
                return b""
            keep(name, data)
            return data

        parts.append(_part(link, values, fetch, numbers, problems))
        deployments += [
            told(Scope(s.document, values, problems), s.sections.context, fetch)
            for s in link.sources
        ]
    suite, kernel, size = _base(links, problems)
    if problems or suite is None or kernel is None or size is None:
        raise InputError(by_line(problems))
    digest.update(repr(sorted(decided.values.items())).encode())
    leaf = links[-1].recipe
    return Flat(
        leaf.name, leaf.version, leaf.summary, suite, kernel, size, tuple(parts),
        tuple(sorted(decided.values.items())), digest.hexdigest(),
        next((x.recipe.max_age for x in reversed(links) if x.recipe.max_age), None),
        merged(deployments),
    )  # fmt: skip


def _base(
    links: list[Link], problems: list[Problem]
) -> tuple[str | None, Kernel | None, int | None]:
    """What some recipe of the chain must have: suite, kernel and size."""
    root, suite = links[0].document, links[0].recipe.suite
    kernel = next((x.recipe.kernel for x in reversed(links) if x.recipe.kernel), None)
    size = next((x.recipe.size for x in reversed(links) if x.recipe.size), None)
    if suite is None:
        hint = "a recipe without 'from' names its suite"
        problems.append(root.problem((), "'suite' is missing", hint))
    elif suite not in ROOT_SUITES:
        what = f"unknown suite '{suite}'"
        problems.append(root.problem(("suite",), what, close(suite, ROOT_SUITES)))
    if kernel is None:
        hint = "name the kernel package and drivers"
        problems.append(root.problem((), "'kernel' is missing", hint))
    if size is None:
        hint = "write the root filesystem's size: 1G"
        problems.append(root.problem((), "'size' is missing", hint))
    return suite, kernel, size


def _part(
    link: Link,
    values: Mapping[str, Value],
    fetch: Fetch,
    numbers: Numbers,
    problems: list[Problem],
) -> Part:
    packages: list[tuple[str, str]] = []
    users: list[tuple[Scope, Place, User]] = []
    directories: list[PlacedDirectory] = []
    files: list[Placed | Fetched] = []
    run: list[Lines] = []
    capabilities: list[str] = []
    switched: list[Units] = []
    written: set[str] = set()
    for source in link.sources:
        scope = Scope(source.document, values, problems)
        packages += _packages(scope, source)
        users += [
            (scope, ("users", n), user)
            for n, user in enumerate(source.sections.users)
            if scope.holds(user.when, ("users", n))
        ]
        for n, directory in enumerate(source.sections.directories):
            here: Place = ("directories", n)
            if scope.holds(directory.when, here):
                _once(scope, (*here, "path"), directory.path, written)
                directories.append(PlacedDirectory(directory.path, directory.mode, directory.owner))
        files += _files(scope, source, fetch, written)
        switched.append(_units(scope, source))
        run += _run(scope, source, fetch)
        capabilities += _chosen(scope, "capabilities", source.sections.capabilities)
    return Part(
        link.recipe.name, link.document.path, tuple(packages), numbers.allot(users),
        tuple(directories), tuple(files),
        Units(
            tuple(u for s in switched for u in s.enable),
            tuple(u for s in switched for u in s.disable),
            tuple(u for s in switched for u in s.mask),
        ),
        tuple(run), tuple(capabilities),
    )  # fmt: skip


def _once(scope: Scope, place: Place, path: str, written: set[str]) -> None:
    if path in written:
        scope.wrong(place, f"{path} is written twice")
    written.add(path)


def _packages(scope: Scope, source: Source) -> list[tuple[str, str]]:
    found = []
    for n, item in enumerate(source.sections.packages):
        place: Place = ("packages", n)
        text = item
        if isinstance(item, PackageWhen):
            if not scope.holds(item.when, place):
                continue
            text, place = item.name, (*place, "name")
        name = _plain(scope, place, str(text), plain_package)
        if name:
            found.append((name, scope.document.where(place)))
    return found


def _files(scope: Scope, source: Source, fetch: Fetch, written: set[str]) -> list[Placed | Fetched]:
    found: list[Placed | Fetched] = []
    for n, file in enumerate(source.sections.files):
        here: Place = ("files", n)
        if not scope.holds(file.when, here):
            continue
        if file.url is not None:
            _once(scope, (*here, "path"), file.path, written)
            found.append(_fetched(scope, here, file))
            continue
        if file.source is not None:
            data = fetch(scope.document, (*here, "source"), file.source)
        elif file.template is not None:
            data = _template(scope, (*here, "template"), file.template, fetch).encode()
        else:
            data = scope.render(file.content or "", (*here, "content")).encode()
        _once(scope, (*here, "path"), file.path, written)
        found.append(Placed(file.path, file.mode, file.owner, data))
    return found


def _fetched(scope: Scope, here: Place, file: File) -> Fetched:
    url = _plain(scope, (*here, "url"), file.url or "", plain_url)
    sha256 = _plain(scope, (*here, "sha256"), file.sha256 or "", plain_sha256)
    where = scope.document.where((*here, "url"))
    return Fetched(file.path, file.mode, file.owner, sha256, url, where)


def _plain(scope: Scope, place: Place, text: str, check: Callable[[str], str]) -> str:
    """A rendered text that must be of a kind; what is wrong is told, and nothing comes of it."""
    rendered = scope.render(text, place)
    if not rendered:
        return ""
    try:
        return check(rendered)
    except ValueError as cause:
        what, _, hint = str(cause).partition("; ")
        scope.wrong(place, what, hint)
        return ""


def _template(scope: Scope, place: Place, name: str, fetch: Fetch) -> str:
    text = fetch(scope.document, place, name).decode(errors="replace")
    return scope.render(text, place, name)


def _units(scope: Scope, source: Source) -> Units:
    services = source.sections.services
    return Units(
        _chosen(scope, "services", services.enable, "enable"),
        _chosen(scope, "services", services.disable, "disable"),
        _chosen(scope, "services", services.mask, "mask"),
    )


def _chosen(
    scope: Scope, key: str, items: Sequence[str | UnitWhen | CapabilityWhen], *below: str
) -> tuple[str, ...]:
    """The names that are written without a condition, or with one that holds."""
    names = []
    for n, item in enumerate(items):
        if isinstance(item, str):
            names.append(item)
        elif scope.holds(item.when, (key, *below, n)):
            names.append(item.name)
    return tuple(names)


def _run(scope: Scope, source: Source, fetch: Fetch) -> list[Lines]:
    found = []
    for n, step in enumerate(source.sections.run):
        here: Place = ("run", n)
        if not scope.holds(step.when, here):
            continue
        if step.template is not None:
            script = _template(scope, (*here, "template"), step.template, fetch)
        else:
            script = scope.render(step.script or "", (*here, "script"))
        secrets = []
        for m, name in enumerate(step.secrets):
            place: Place = (*here, "secrets", m)
            if name in step.secrets[:m]:
                scope.wrong(place, f"the secret {name} is named twice", "keep one of the two")
            secrets.append((name, scope.document.where(place)))
        found.append(Lines(step.name, script, step.user, tuple(secrets)))
    return found
