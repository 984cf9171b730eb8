"""Which exact packages a recipe means. A build takes them from, in this order: recipe.lock beside the recipe (the
maintainer's word: taken exactly, or refused when it is stale), else the lock that the last build of the same questions
left in the home folder, else the mirror, asked once. So a second build asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builder import told
from builder.errors import InputError, Problem
from builder.language.flat import Flat
from builder.packages import lock
from builder.packages.apt import Apt
from builder.packages.facts import resolve
from builder.packages.facts import sources as sources_of
from builder.packages.pip import Pip
from builder.packages.pip import resolve as resolve_wheels
from builder.packages.renew import renew
from builder.plan import Facts, Report
from builder.provisions import Caches


class Locks:
    """Of one home folder."""

    def __init__(self, home: Path, caches: Caches, report: Report) -> None:
        self.home, self._caches, self.report = home, caches, report
        self._apts: dict[str, Apt] = {}

    def apt(self, flat: Flat) -> Apt:
        """apt over the machine's sources of the recipe's suite. Its answer to `update` is shared by all recipes."""
        if flat.suite not in self._apts:
            self._caches.make()
            self._apts[flat.suite] = Apt(
                self._caches.apt, self._caches.packages, sources_of(flat.suite),
                self._caches.logs / "apt.log",
            )  # fmt: skip
        return self._apts[flat.suite]

    def pip(self, suite: str) -> Pip:
        return Pip(suite, self._caches.files, self._caches.logs / "pip.log")

    def facts(self, flat: Flat, folder: Path) -> tuple[Facts, str]:
        """The exact packages, and where they come from in words. InputError for a stale recipe.lock."""
        key = lock.key(flat)
        if beside := lock.found(folder, flat):
            known, of = lock.from_json(beside.read_text(), str(beside))
            if of != key:
                what = "is of other packages than the recipe now asks for"
                raise InputError(
                    Problem(str(beside), what, f"phx lock {flat.called} --update renews it")
                )
            return known, f"exactly those of {beside}"
        last = "those of the last build; phx lock fixes them, phx build --refresh asks again"
        if answer := self._answer(key):
            return answer, last
        with self.apt(flat).alone(self.report):
            # Another build may have asked the same while we waited.
            if answer := self._answer(key):
                return answer, last
            return self._resolve(flat, key), "asked of the mirror now"

    def _answer(self, key: str) -> Facts | None:
        """What the mirror said last time."""
        kept = self._kept(key)
        return lock.from_json(kept.read_text(), str(kept))[0] if kept.is_file() else None

    def _kept(self, key: str) -> Path:
        return self.home / "locks" / f"{key[:20]}.lock"

    def _ask(self, flat: Flat, key: str) -> Facts:
        with self.apt(flat).alone(self.report):
            return self._resolve(flat, key)

    def _resolve(self, flat: Flat, key: str) -> Facts:
        found = resolve(flat, self.apt(flat), self.report)
        installer, wheels = resolve_wheels(flat, self.pip(flat.suite), self.report)
        found = replace(found, installer=installer, wheels=wheels)
        told.write(self._kept(key), lock.to_json(found, key))
        return found

    def lock(
        self, flat: Flat, folder: Path, update: bool, names: Sequence[str] = ()
    ) -> tuple[Facts | None, Facts]:
        """Write recipe.lock; (what it was, what it is). It stays as it is unless `update` or the recipe asks anew.

        names  the only packages to update, with what they need
        """
        key, beside = lock.key(flat), lock.beside(folder, flat)
        old = of = None
        if beside.is_file():
            old, of = lock.from_json(beside.read_text(), str(beside))
        if old is not None and of == key and not update:
            return old, old
        if names:
            if old is None:
                what = f"there is no {beside} to update in part"
                raise InputError(Problem("", what, f"phx lock {flat.called} writes it"))
            with self.apt(flat).alone(self.report):
                new = renew(flat, old, names, self.apt(flat), self.pip(flat.suite), self.report)
        else:
            new = self._ask(flat, key)
        told.write(beside, lock.to_json(new, key))
        return old, new

    def refresh(self, flat: Flat) -> tuple[Facts | None, Facts]:
        """Ask the mirror again for an unlocked recipe; (what the last build took, what the next will)."""
        key = lock.key(flat)
        return self._answer(key), self._ask(flat, key)
