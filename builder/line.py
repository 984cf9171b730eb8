"""The assembly line: recipe, lock, layers and catalog brought together. What `phx build` does, without its printing."""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from builder import assemble, differing, plan, shell, steps, told
from builder.batch import Result
from builder.choice import Chosen
from builder.errors import InputError, PhiloxeniaError, Problem
from builder.images import disk
from builder.images.catalog import Catalog
from builder.images.manifest import Manifest
from builder.language import recipe
from builder.language.flat import Flat
from builder.layers import LayerInfo, LayerStore
from builder.packages import lock
from builder.packages.locks import Locks
from builder.plan import BuildPlan, Facts, Report
from builder.provisions import Caches
from builder.rights import remove, rights
from builder.secrets import Secret
from builder.testing import gate, static
from builder.testing.session import Outcome
from builder.told import Explained


class Line:
    """Builds in one home folder from one library of recipes."""

    def __init__(
        self, home: Path, library: Path, report: Report, layers_max: int | None = None,
        secrets: Mapping[str, Secret] = MappingProxyType({}), visit: bool = False,
    ) -> None:  # fmt: skip
        """layers_max  bytes that layers may take after a build; None: no limit

        visit  whether a shell is opened where a step failed
        """
        self.home, self.library, self.report, self.layers_max = home, library, report, layers_max
        self.secrets, self.visit = secrets, visit
        self.catalog = Catalog(home / "images")
        self.caches = Caches(home / "packages", home / "apt", home / "logs", home / "files")
        self.locks = Locks(home, self.caches, report)

    @property
    def second(self) -> Path:
        """Where `check` builds."""
        return self.home / "check"

    def load(self, chosen: Chosen, given: Mapping[str, str]) -> Flat:
        return recipe.load(chosen.folder, self.library, given, variant=chosen.variant)

    def draw(
        self, images: Sequence[Chosen], given: Mapping[str, str], refresh: bool
    ) -> tuple[dict[str, tuple[Flat, Facts]], list[Result]]:
        """Several recipes with their packages; and those of which nothing can come, each with its reason."""
        drawn: dict[str, tuple[Flat, Facts]] = {}
        wrong: dict[str, PhiloxeniaError] = {}
        for chosen in images:
            try:
                flat = self.load(chosen, given)
                if refresh and not lock.found(chosen.folder, flat):
                    self.locks.refresh(flat)
                found = self.locks.facts(flat, chosen.folder)[0]
                self._demand_secrets(flat, plan.plan(flat, found))
                drawn[chosen.name] = flat, found
            except PhiloxeniaError as error:
                wrong[chosen.name] = error
        return drawn, [_hopeless(name, wrong) for name in sorted(wrong)]

    def build(
        self, flat: Flat, found: Facts, layered: Callable[[], None] = lambda: None,
        proven: Outcome | None = None,
    ) -> tuple[Manifest, bool]:  # fmt: skip
        """The image, and whether it had to be made.

        layered  called once its layers are there
        proven   what its static tests said, if `test` ran them already
        """
        drawn = plan.plan(flat, found)
        there = self.catalog.by_plan(drawn.id)
        store = LayerStore(self.home / "layers")
        if there is not None:
            gate.again(flat, drawn.layers(), store, self.catalog.folder(there), self.report, proven)
            return there, False
        waiting = f"image {drawn.name}: waiting for another build of it"
        with store.making(drawn.id, lambda: self.report(waiting)):
            there = self.catalog.by_plan(drawn.id)
            if there is not None:
                return there, False
            made = self._make(flat, drawn, store, self.catalog, layered, proven)
        told.remember(drawn, self.home)
        if self.layers_max is not None and (gone := store.evict(self._needed(), self.layers_max)):
            freed = sum(layer.size for layer in gone) >> 20
            self.report(f"{len(gone)} layers removed that were used least recently, {freed} MiB")
        return made, True

    def _make(
        self, flat: Flat, drawn: BuildPlan, store: LayerStore, catalog: Catalog,
        layered: Callable[[], None] = lambda: None, proven: Outcome | None = None,
    ) -> Manifest:  # fmt: skip
        with self._layered(flat, drawn, store) as layers:
            layered()
            now = datetime.datetime.now(datetime.UTC)

            def make(into: Path) -> Manifest:
                work = functools.partial(disk.make, drawn, layers, store, into, now, self.report)
                return gate.guarded(flat, layers, store, into, work, self.report, proven)

            return catalog.add(make)

    @contextlib.contextmanager
    def _layered(
        self, flat: Flat, drawn: BuildPlan, store: LayerStore
    ) -> Iterator[tuple[str, ...]]:
        """The plan's layers, made where they are missing; they stay meanwhile."""
        rights()  # whoever has none hears so before anything is fetched
        self._demand_secrets(flat, drawn, store)
        with store.using(drawn.layers()):
            yield assemble.assemble(
                drawn, store, self.caches, self.locks.apt(flat).over(flat.archives()),
                self.locks.pip(flat.suite),
                self.report, self.secrets, self.visit,
            )  # fmt: skip

    def enter(self, flat: Flat, found: Facts, number: int) -> int:
        """A shell in the tree that step `number` (from 1) finds, with what it is given; the shell's exit status."""
        drawn = plan.plan(flat, found)
        if not 1 < number <= len(drawn.steps):
            what = f"{number} is no step with a tree to enter"
            hint = f"phx build {flat.called} --explain lists them: 2 to {len(drawn.steps)}"
            raise InputError(Problem("--shell", what, hint))
        store, step = LayerStore(self.home / "layers"), drawn.steps[number - 1]
        below = replace(drawn, steps=drawn.steps[: number - 1])
        if isinstance(step, steps.Script):
            self._demand_secrets(flat, replace(drawn, steps=drawn.steps[:number]), store)
        with self._layered(flat, below, store) as layers, store.begin(layers) as chamber:
            assemble.fetch(step, self.caches, self.locks.apt(flat).over(flat.archives()),
                           self.locks.pip(flat.suite), self.report)  # fmt: skip
            self.report(f"before step {number} {step.title()}: {assemble.VISIT}")
            return shell.enter(step, chamber, self.caches, self.secrets, drawn.output.epoch)

    def test(self, flat: Flat, found: Facts) -> Outcome:
        """What the recipe's static tests say of its layers, which are made where they are missing."""
        store = LayerStore(self.home / "layers")
        with self._layered(flat, plan.plan(flat, found), store) as layers:
            return static.run(flat, layers, store, self.report)

    def _demand_secrets(
        self, flat: Flat, drawn: BuildPlan, store: LayerStore | None = None
    ) -> None:
        """InputError naming each secret that a step needs and nobody gave. A layer that is there needs none."""
        if not any(lines.secrets for part in flat.parts for lines in part.run):
            return
        if store is None:
            if self.catalog.by_plan(drawn.id) is not None:
                return
            store = LayerStore(self.home / "layers")
        needed = {
            name
            for layer, step in zip(drawn.layers(), drawn.steps, strict=True)
            if isinstance(step, steps.Script) and step.secrets and not store.has(layer)
            for name in step.secrets
        }
        lacking = [
            Problem(
                where, f"the secret '{name}' is not given",
                f"phx build {flat.called} --secret {name}=file:PATH, or {name}=env:VARIABLE",
            )
            for part in flat.parts for lines in part.run for name, where in lines.secrets
            if name in needed - self.secrets.keys()
        ]  # fmt: skip
        if lacking:
            raise InputError(lacking)

    def check(self, flat: Flat, found: Facts, made: Manifest) -> list[str]:
        """Build everything again from the same facts, in `second`; the files that are not the same bytes."""
        remove(self.second)
        drawn = plan.plan(flat, found)
        again = self._make(
            replace(flat, tests=()),
            drawn,
            LayerStore(self.second / "layers"),
            Catalog(self.second / "images"),
        )
        differ = [name for name, digest in made.digests if dict(again.digests)[name] != digest]
        if not differ:
            remove(self.second)
        return differ

    def differing(self, made: Manifest) -> str:
        """How the second build that `check` kept differs from the image, in words."""
        stores = (LayerStore(top / "layers") for top in (self.home, self.second))
        return differing.examine(made.layers, made.epoch, *stores)

    def explain(self, flat: Flat, found: Facts) -> list[Explained]:
        """Each step: reused, or made because of which input."""
        return told.explain(plan.plan(flat, found), LayerStore(self.home / "layers"), self.home)

    def prune(
        self, older: float, max_size: int | None = None
    ) -> tuple[list[Manifest], list[LayerInfo]]:
        """Remove images that a newer one of their name replaced and nobody uses, then layers of no image.

        older     seconds: layers made or used since then stay, whatever they belong to (a failed build resumes there)
        max_size  bytes: then the least recently used layers go until the rest takes no more than this
        """
        gone, newest = [], set()
        for image in self.catalog.images():
            if image.name in newest and not self.catalog.holders(image):
                self.catalog.remove(image)
                gone.append(image)
            newest.add(image.name)
        store = LayerStore(self.home / "layers")
        layers = store.prune(self._needed(), older)
        if max_size is not None:
            layers += store.evict(self._needed(), max_size)
        return gone, layers

    def _needed(self) -> set[str]:
        return {layer for image in self.catalog.images() for layer in image.layers}


def _hopeless(name: str, wrong: Mapping[str, PhiloxeniaError]) -> Result:
    """A recipe that cannot be built. What is wrong in its parent only is told once, of the parent."""
    error = wrong[name]
    mine = set(error.problems) if isinstance(error, InputError) else set()
    for other, cause in wrong.items():
        if other != name and isinstance(cause, InputError) and mine:
            theirs = set(cause.problems)
            here = any(f"/{other}/" in problem.where for problem in theirs)
            if mine == theirs and here:
                return Result(name, "not built", because=other)
    return Result(name, "failed", error=error)
