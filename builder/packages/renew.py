"""A lock renewed in part: some packages get the versions of today, and of the others only those that they need.

apt is asked twice. First as on a machine that has the old packages installed: what would it fetch to bring the named
ones up to date? Then from nothing, as for every lock, with each version pinned, to what it was or to that answer. So
what nobody needs any more goes, and what was added to the recipe comes. Old packages that the mirror no longer has
are offered from the cache. pip has no such thing as an old state that it would rather keep: what is kept are
constraints, and a conflict frees those that it names.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from builder.errors import InputError, Problem, close
from builder.language.flat import Flat
from builder.packages import facts, pip
from builder.packages.apt import Apt
from builder.packages.archive import archive, file_name, whole
from builder.plan import Facts, Report, wanted
from builder.steps import Locked, LockedWheel


def renew(
    recipe: Flat, old: Facts, names: Sequence[str], apt: Apt, python: pip.Pip, report: Report
) -> Facts:
    """The lock `old` with other versions of `names` (NAME or NAME=VERSION) and of what these need. Its date stays.

    Raises InputError for a name of nothing in the lock or the recipe; WorkFailed when it cannot be.
    """
    debian = {p.name for part in old.packages for p in part} | {
        name.partition("=")[0] for part in recipe.parts for name in wanted(recipe, part)
    }
    wheels = {w.name for part in old.wheels for w in part} | {
        pip.name_of(name) for part in recipe.parts for name, _ in part.pip
    }
    bare = {name: name.partition("=")[0] for name in names}
    strange = [
        Problem(f"--update {name}", "no such package in the lock", _near(short, debian | wheels))
        for name, short in bare.items()
        if short not in debian and pip.normalized(short) not in wheels
    ]
    if strange:
        raise InputError(strange)
    found = replace(old, wheels=(), installer=None)
    ours = [name for name, short in bare.items() if short in debian]
    found = replace(found, packages=_debian(recipe, old, ours, apt, report))
    installer, fresh = pip.resolve(
        recipe, python, report, _kept(old, {pip.normalized(short) for short in bare.values()})
    )
    return replace(found, installer=old.installer or installer, wheels=fresh)


def _near(name: str, known: set[str]) -> str:
    """Not all names, as `close` would give: there are hundreds."""
    hint = close(name, known)
    return hint if hint.startswith("did you mean") else "recipe.lock has the names of all"


def _debian(
    recipe: Flat, old: Facts, names: Sequence[str], apt: Apt, report: Report
) -> tuple[tuple[Locked, ...], ...]:
    before = {p.name: p for part in old.packages for p in part}
    asked = [name for part in recipe.parts for name in wanted(recipe, part)]
    new = [name for name in asked if name.partition("=")[0] not in before]
    if not names and not new and all(name.partition("=")[0] in before for name in asked):
        return old.packages
    with _offered(list(before.values()), apt) as kept:
        whole_chain = kept.over(recipe.archives())
        whole_chain.update()
        moved, _ = whole_chain.resolve([*names, *new], whole_chain.installed(before.values()))
        pins = {p.name: p.version for p in (*before.values(), *moved)}
        return facts.resolve(recipe, replace(kept, pins=pins), report).packages


@contextlib.contextmanager
def _offered(packages: Sequence[Locked], apt: Apt) -> Iterator[Apt]:
    """apt that also sees those of the packages that are in the cache."""
    here = [p for p in packages if whole(apt.archives / file_name(p), p)]
    folder = apt.state / "kept"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    archive(here, "kept", apt.archives, folder)
    kept = apt.over((), f"Types: deb\nURIs: copy:{folder}\nSuites: ./\nTrusted: yes\n")
    # Another lock of this process may have been asked from a folder of that name.
    kept = replace(kept, asked={})
    try:
        yield kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(kept.state, ignore_errors=True)


def _kept(old: Facts, named: set[str]) -> Callable[[Mapping[str, str]], dict[str, str]]:
    """Versions to keep, given those of today: the named ones move to these, all others stay."""
    before: dict[str, LockedWheel] = {w.name: w for part in old.wheels for w in part}

    def keep(today: Mapping[str, str]) -> dict[str, str]:
        kept = {name: wheel.version for name, wheel in before.items() if name not in named}
        return kept | {name: version for name, version in today.items() if name in named}

    return keep
