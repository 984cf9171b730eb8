"""A flat recipe and the facts of the mirror, turned into a build plan: steps, each with the id of its layer.

The id of a layer is the sha256 of its parent's id, the step's kind and revision, and what the step told about itself
as canonical JSON; so equal ids mean equal input, wherever and whenever it was built. Raise a step's `rev` when
its execution would make other bytes from the same input (tests/test_steps.py remembers what each revision did
and fails when that changes under the same number).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from builder.recipe import Flat, Kernel, Placed


@dataclass(frozen=True, slots=True)
class Facts:
    """What planning needs to know of the world.

    sources   apt sources in deb822 form, for the plan's suite
    origin    a digest of what the mirror offers, or "" when the plan is not tied to one moment
    """

    sources: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A minimal Debian with the root recipe's packages."""

    kind: ClassVar[str] = "bootstrap"
    rev: ClassVar[int] = 1
    suite: str
    sources: str
    packages: tuple[str, ...]
    asked: tuple[str, ...] = ()
    """`file:line` of each package, for messages; not part of the identity."""

    def told(self) -> dict[str, Any]:
        return {"suite": self.suite, "sources": self.sources, "packages": sorted(self.packages)}

    def title(self) -> str:
        return f"Debian {self.suite} with {len(self.packages)} packages named"


@dataclass(frozen=True, slots=True)
class Install:
    """Debian packages on top of what is there."""

    kind: ClassVar[str] = "install"
    rev: ClassVar[int] = 1
    packages: tuple[str, ...]
    asked: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        return {"packages": sorted(self.packages)}

    def title(self) -> str:
        return f"install {', '.join(self.packages)}"


@dataclass(frozen=True, slots=True)
class Write:
    """Files with their owners and modes; folders above them are made as root's, 0755."""

    kind: ClassVar[str] = "write"
    rev: ClassVar[int] = 1
    files: tuple[Placed, ...]

    def told(self) -> dict[str, Any]:
        return {"files": sorted([f.path, f.mode, f.owner, f.sha256] for f in self.files)}

    def title(self) -> str:
        names = ", ".join(f.path for f in self.files[:3])
        return f"write {names}" + (
            f" and {len(self.files) - 3} more" if len(self.files) > 3 else ""
        )


@dataclass(frozen=True, slots=True)
class Switch:
    """systemd units enabled, disabled, masked."""

    kind: ClassVar[str] = "switch"
    rev: ClassVar[int] = 1
    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mask: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        return {k: sorted(v) for k, v in asdict(self).items()}

    def title(self) -> str:
        sets = (("on", self.enable), ("off", self.disable), ("masked", self.mask))
        return "services " + ", ".join(f"{len(units)} {how}" for how, units in sets if units)


@dataclass(frozen=True, slots=True)
class Script:
    """Lines run by `sh -eu` as root in the tree."""

    kind: ClassVar[str] = "script"
    rev: ClassVar[int] = 1
    name: str
    script: str

    def told(self) -> dict[str, Any]:
        return {"script": self.script}

    def title(self) -> str:
        return f"run: {self.name}"


@dataclass(frozen=True, slots=True)
class Seal:
    """Take out what must not be in an image: identity, keys, caches, logs, package lists."""

    kind: ClassVar[str] = "seal"
    rev: ClassVar[int] = 1

    def told(self) -> dict[str, Any]:
        return {}

    def title(self) -> str:
        return "seal: no machine-id, host keys, caches or logs"


Step = Bootstrap | Install | Write | Switch | Script | Seal


def layer_id(parent: str, step: Step) -> str:
    """sha256 in hex. What the step tells is nested, so that no field of it can pass for the parent or the kind."""
    told = {"parent": parent, "kind": step.kind, "rev": step.rev, "with": step.told()}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Output:
    """How the finished tree becomes something that boots."""

    size: int
    kernel: Kernel
    rev: int = 1

    def told(self) -> dict[str, Any]:
        return {
            "size": self.size, "package": self.kernel.package, "modules": list(self.kernel.modules),
            "cmdline": self.kernel.cmdline, "rev": self.rev,
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

    def layers(self) -> tuple[str, ...]:
        """Layer ids, one for each step, in order."""
        ids: list[str] = []
        parent = ""
        for step in self.steps:
            parent = layer_id(parent, step)
            ids.append(parent)
        return tuple(ids)

    @property
    def id(self) -> str:
        """Identity of the image that this plan makes: last layer and output."""
        told = {"layer": self.layers()[-1], "name": self.name, "version": self.version,
                "output": self.output.told()}  # fmt: skip
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan(recipe: Flat, facts: Facts) -> BuildPlan:
    """Steps of every part from root to leaf, then the seal. Empty sections make no step."""
    root, *rest = recipe.parts
    names = (*(p for p, _ in root.packages), recipe.kernel.package)
    steps: list[Step] = [
        Bootstrap(recipe.suite, facts.sources, names, tuple(w for _, w in root.packages))
    ]
    steps += _sections(root.files, root.services, root.run)
    for part in rest:
        if part.packages:
            steps.append(
                Install(tuple(p for p, _ in part.packages), tuple(w for _, w in part.packages))
            )
        steps += _sections(part.files, part.services, part.run)
    steps.append(Seal())
    return BuildPlan(
        recipe.name, recipe.version, recipe.summary, recipe.digest, recipe.parameters,
        tuple(steps), Output(recipe.size, recipe.kernel),
    )  # fmt: skip


def _sections(
    files: tuple[Placed, ...], services: Any, run: tuple[tuple[str, str], ...]
) -> list[Step]:
    steps: list[Step] = []
    if files:
        steps.append(Write(files))
    if services.enable or services.disable or services.mask:
        steps.append(Switch(services.enable, services.disable, services.mask))
    steps += [Script(name, script) for name, script in run]
    return steps


Report = Callable[[str], None]
"""Takes one line of progress. Library code reports; only the command line prints."""
