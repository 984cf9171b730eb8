"""A flat recipe and the facts of the mirror, turned into a build plan: complete from the start, down to the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builder.errors import InputError, Problem
from builder.language.entries import EXT4, Kernel, Root
from builder.language.flat import Flat, Part
from builder.steps import (
    Accounts,
    Bootstrap,
    Install,
    Locked,
    LockedWheel,
    Pip,
    Script,
    Seal,
    Step,
    Switch,
    Write,
    layer_id,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What planning needs to know of the world; kept as a lock.

    epoch     seconds since 1970: the mirror's own date when it was asked. No file of the image is younger
    packages   for each part of the recipe, root first, the packages that it adds
    wheels     likewise the Python packages; () when the recipe has none
    installer  the pip that installs them
    """

    epoch: int
    packages: tuple[tuple[Locked, ...], ...]
    wheels: tuple[tuple[LockedWheel, ...], ...] = ()
    installer: LockedWheel | None = None


EXT4_MODULES = ("crc32c_generic", "ext4")
"""What ext4 is mounted with. Not every kernel has it built in; the first is asked for by no dependency that is told."""


@dataclass(frozen=True, slots=True)
class Output:
    """How the finished tree becomes something that boots."""

    size: int
    kernel: Kernel
    epoch: int
    rev: int = 6
    root: Root = EXT4

    @property
    def modules(self) -> tuple[str, ...]:
        """What the initrd loads: the recipe's drivers, and what the root is mounted with."""
        more = () if self.root.format == "ext4" else (self.root.format, "overlay")
        writes = self.root.format == "ext4" or self.root.changes == "disk"
        return (*self.kernel.modules, *more, *(EXT4_MODULES if writes else ()))

    def told(self) -> dict[str, Any]:
        more = {} if self.root.format == "ext4" else {"root": self.root.model_dump()}
        if self.kernel.hypervisor is not None:
            more["hypervisor"] = self.kernel.hypervisor.model_dump()
        return more | {
            "size": self.size, "package": self.kernel.package, "modules": list(self.kernel.modules),
            "cmdline": self.kernel.cmdline, "epoch": self.epoch, "rev": self.rev,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Complete from the start: every step and its layer are known before anything runs."""

    name: str
    version: str
    summary: str
    recipe_digest: str
    parameters: tuple[tuple[str, str | int | bool], ...]
    steps: tuple[Step, ...]
    output: Output
    capabilities: tuple[str, ...] = ()
    max_age: int | None = None
    context: str = ""
    """How nodes of the image join a cluster, as JSON; it travels in the manifest."""
    formats: tuple[str, ...] = ()
    requires: tuple[tuple[str, str], ...] = ()

    def layers(self) -> tuple[str, ...]:
        """Layer ids, one for each step, in order."""
        ids: list[str] = []
        parent = ""
        for step in self.steps:
            parent = layer_id(parent, step)
            ids.append(parent)
        return tuple(ids)

    def wheels(self) -> list[LockedWheel]:
        """All Python packages that pip installs, by name."""
        found = [w for step in self.steps if isinstance(step, Pip) for w in step.locked]
        return sorted(found, key=lambda wheel: wheel.name)

    @property
    def id(self) -> str:
        """Identity of the image that this plan makes: last layer and output."""
        told = {"layer": self.layers()[-1], "name": self.name, "version": self.version, "summary": self.summary,
                "output": self.output.told()}  # fmt: skip
        more: dict[str, Any] = {"capabilities": self.capabilities, "max_age": self.max_age}
        more |= {"context": self.context, "formats": self.formats, "requires": self.requires}
        told |= {key: value for key, value in more.items() if value}
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def cmdline(self) -> str:
        """The recipe's kernel parameters, and how the initrd finds a read-only root and the place for its changes."""
        words = [self.output.kernel.cmdline]
        if self.output.root.format != "ext4":
            words.append(f"rootfstype={self.output.root.format}")
        if self.output.root.changes == "disk":
            root, changes = (f"PARTLABEL={label(part, self.id)}" for part in ("root", "changes"))
            words += [f"root={root}", f"phx.changes={changes}"]
        return " ".join(filter(None, words))


def label(part: str, plan: str) -> str:
    """A partition's: another image's disk beside it must not be taken for it."""
    return f"{part}-{plan[:12]}"


def plan(recipe: Flat, facts: Facts) -> BuildPlan:
    """Steps of every part from root to leaf, then the seal. Empty sections make no step.

    Raises InputError if the facts are of a recipe with other parts.
    """
    root, *rest = recipe.parts
    if len(facts.packages) != len(recipe.parts):
        what = f"the lock has {len(facts.packages)} parts, the recipe {len(recipe.parts)}"
        raise InputError(Problem("", what, "phx lock RECIPE --update renews it"))
    locks = dict(zip((part.recipe for part in recipe.parts), facts.packages, strict=True))
    steps: list[Step] = [
        Bootstrap(recipe.suite, facts.epoch, wanted(recipe, root), locks[root.recipe])
    ]
    wheels = dict(zip((part.recipe for part in recipe.parts), facts.wheels, strict=False))
    steps += _sections(root, wheels.get(root.recipe, ()), facts.installer)
    for part in rest:
        if part.packages:
            steps.append(Install(wanted(recipe, part), locks[part.recipe]))
        steps += _sections(part, wheels.get(part.recipe, ()), facts.installer)
    steps.append(Seal())
    return BuildPlan(
        recipe.name, recipe.version, recipe.summary, recipe.digest, recipe.parameters,
        tuple(steps), Output(recipe.size, recipe.kernel, facts.epoch, root=recipe.root),
        recipe.capabilities, recipe.max_age, recipe.context, recipe.formats, recipe.requires,
    )  # fmt: skip


def wanted(recipe: Flat, part: Part) -> tuple[str, ...]:
    """The packages that a part asks for; the root's has the kernel too, and the hypervisor."""
    names = tuple(name for name, _ in part.packages)
    return (*names, *recipe.kernel.packages) if part is recipe.parts[0] else names


def _sections(
    part: Part, wheels: tuple[LockedWheel, ...], installer: LockedWheel | None
) -> list[Step]:
    steps: list[Step] = []
    if wheels and installer is not None:
        steps.append(Pip(tuple(name for name, _ in part.pip), installer, wheels, part.wheels))
    if part.users:
        steps.append(Accounts(part.users))
    if part.files or part.directories:
        steps.append(Write(part.files, part.directories))
    units = part.services
    if units.enable or units.disable or units.mask:
        steps.append(Switch(units.enable, units.disable, units.mask))
    steps += [
        Script(lines.name, lines.script, lines.user, tuple(name for name, _ in lines.secrets))
        for lines in part.run
    ]
    return steps


Report = Callable[[str], None]
"""Takes one line of progress. Library code reports; only the command line prints."""
