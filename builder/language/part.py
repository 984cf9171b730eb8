"""One recipe of a chain made flat: its own sections and its fragments', conditions decided, templates rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from builder.document import Document, Place
from builder.errors import Problem
from builder.language.accounts import Numbers
from builder.language.chain import Link, Source
from builder.language.entries import (
    CapabilityWhen,
    File,
    PackageWhen,
    PythonPackage,
    UnitWhen,
    User,
)
from builder.language.flat import (
    Archive,
    Fetched,
    Lines,
    LocalWheel,
    Part,
    Placed,
    PlacedDirectory,
    Units,
)
from builder.language.kinds import (
    Value,
    plain_package,
    plain_requirement,
    plain_sha256,
    plain_suite,
    plain_url,
)
from builder.language.scope import Scope

Fetch = Callable[[Document, Place, str], bytes]


def part_of(
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
    archives: list[Archive] = []
    pip: list[tuple[str, str]] = []
    wheels: list[LocalWheel] = []
    switched: list[Units] = []
    written: set[str] = set()
    for source in link.sources:
        scope = Scope(source.document, values, problems)
        archives += _archives(scope, source, fetch, files, written)
        packages += _packages(scope, source)
        _python(scope, source, fetch, pip, wheels)
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
        tuple(run), tuple(capabilities), tuple(pip), tuple(wheels), tuple(archives),
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


def _archives(
    scope: Scope,
    source: Source,
    fetch: Fetch,
    files: list[Placed | Fetched],
    written: set[str],
) -> list[Archive]:
    """The archives; what the image keeps of them is added to `files`."""
    found = []
    for n, item in enumerate(source.sections.sources):
        here: Place = ("sources", n)
        if not scope.holds(item.when, here):
            continue
        uri = _plain(scope, (*here, "uri"), item.uri, plain_url)
        suite = _plain(scope, (*here, "suite"), item.suite, plain_suite)
        components = item.components
        if suite.endswith("/"):
            if "components" in item.model_fields_set and components:
                hint = "remove components"
                scope.wrong(
                    (*here, "components"), "an archive without suites has no components", hint
                )
            components = ()
        elif not components:
            scope.wrong((*here, "components"), "is empty", "name one, as in main")
        place: Place = (*here, "key" if item.key else "key_text")
        key = fetch(scope.document, place, item.key) if item.key else (item.key_text or "").encode()
        if key or not item.key:
            _check_key(scope, place, key)
        where = scope.document.where(here)
        archive = Archive(item.name, uri, suite, components, key, item.snapshot, where)
        if item.keep:
            keys, path = "/etc/apt/keyrings", f"/etc/apt/sources.list.d/{item.name}.sources"
            _once(scope, (*here, "name"), path, written)
            files.append(Placed(path, 0o644, "root", archive.stanza(keys).encode()))
            files.append(Placed(f"{keys}/{archive.key_file}", 0o644, "root", key))
        found.append(archive)
    return found


def _check_key(scope: Scope, place: Place, key: bytes) -> None:
    if b"PRIVATE KEY" in key:
        hint = "give the public one, as gpg --export --armor prints it, and make a new pair"
        scope.wrong(place, "is a private key", hint)
    # RFC 4880: binary packets begin with their tag, a byte over 127.
    elif not (
        key.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") or key[:1] > b"\x7f"
    ):
        scope.wrong(place, "is not a public key", "give what gpg --export --armor prints")


def _python(
    scope: Scope,
    source: Source,
    fetch: Fetch,
    asked: list[tuple[str, str]],
    wheels: list[LocalWheel],
) -> None:
    for n, item in enumerate(source.sections.pip):
        place: Place = ("pip", n)
        text = item
        if isinstance(item, PythonPackage):
            if not scope.holds(item.when, place):
                continue
            if item.wheel is not None:
                here = (*place, "wheel")
                file = item.wheel.rpartition("/")[2]
                if any(file == wheel.file for wheel in wheels):
                    scope.wrong(here, f"{file} is named twice", "keep one of the two")
                data = fetch(scope.document, here, item.wheel)
                wheels.append(LocalWheel(file, data, scope.document.where(here)))
                continue
            text, place = item.name or "", (*place, "name")
        name = _plain(scope, place, str(text), plain_requirement)
        if name:
            asked.append((name, scope.document.where(place)))


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
