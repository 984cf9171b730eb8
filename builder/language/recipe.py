"""A chain of recipes turned into one flat, checked recipe: parents first, conditions decided, templates rendered.

A recipe is a folder with `recipe.yaml` and the fragments, templates and files that it names. `from:` names its parent;
the chain may have any depth. The disk is read through `load`, `names` and `real` alone.

What a reader could get wrong: the sections of one recipe always run in the order packages, pip, users, directories,
files, services, run, whatever order they are written in; its fragments' come before its own of the same kind, and all
of a parent's before its child's. Every text in those sections is a jinja2 template over the parameters, with strict
undefined. An entry whose `when` is false is as if it were not written: nothing of it is read or rendered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builder.document import Document, Place, by_line
from builder.errors import InputError, Problem, close
from builder.language.accounts import Numbers
from builder.language.chain import Link, Load, chain, decide, names_in, reason
from builder.language.deployment import merged, told
from builder.language.entries import EXT4, Kernel
from builder.language.flat import CheckFile, Flat
from builder.language.part import Fetch, part_of
from builder.language.scope import Scope

ROOT_SUITES = ("bookworm",)


def load(
    folder: Path,
    library: Path,
    given: Mapping[str, str],
    load: Load = Path.read_bytes,
    names: Callable[[Path], list[str]] = names_in,
    real: Callable[[Path], Path] = Path.resolve,
    variant: str = "",
) -> Flat:
    """The recipe in `folder`, flat.

    library   the folder in which parents are looked up by name
    given     parameter values from the command line, as texts
    load      reads one file
    names     lists the recipes of a library, for a hint
    real      resolves a folder, whose name a recipe must have
    variant   the name of one of its matrix, or ""
    Raises InputError with every problem of every recipe in the chain.
    """
    links = chain(folder, library, load, names, real)
    problems: list[Problem] = []
    decided = decide(links, given, variant, problems)
    digest = hashlib.sha256()
    numbers = Numbers()
    parts = []
    deployments: list[dict[str, Any]] = []
    tests: list[CheckFile] = []

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

        parts.append(part_of(link, values, fetch, numbers, problems))
        deployments += [
            told(Scope(s.document, values, problems), s.sections.context, fetch)
            for s in link.sources
        ]
        tests += _tests(link, fetch)
    suite, kernel, size = _base(links, problems)
    if problems or suite is None or kernel is None or size is None:
        raise InputError(by_line(problems))
    digest.update(repr(sorted(decided.values.items())).encode())
    leaf = links[-1].recipe
    name = f"{leaf.name}-{variant}" if variant else leaf.name
    return Flat(
        name, leaf.version, leaf.summary, suite, kernel, size, tuple(parts),
        tuple(sorted(decided.values.items())), digest.hexdigest(),
        next((x.recipe.max_age for x in reversed(links) if x.recipe.max_age), None),
        merged(deployments), tuple(tests),
        str(links[-1].folder / leaf.tests.cluster) if leaf.tests.cluster else "", variant,
        next((x.recipe.root for x in reversed(links) if x.recipe.root), EXT4),
        next((x.recipe.formats for x in reversed(links) if x.recipe.formats), ()),
        _requires(links),
    )  # fmt: skip


def _requires(links: list[Link]) -> tuple[tuple[str, str], ...]:
    """Key and what it says, by key; a child's says it anew."""
    told: dict[str, str] = {}
    for link in links:
        told |= link.recipe.requires.model_dump(exclude_none=True)
    return tuple(sorted(told.items()))


def _tests(link: Link, fetch: Fetch) -> list[CheckFile]:
    """The recipe's own test files; its cluster file is only seen to be there."""
    checks, found = link.recipe.tests, []
    for n, name in enumerate(checks.files):
        data = fetch(link.document, ("tests", "files", n), name)
        sha256 = hashlib.sha256(data).hexdigest()
        found.append(CheckFile(link.recipe.name, str(link.folder), name, sha256))
    if checks.cluster:
        fetch(link.document, ("tests", "cluster"), checks.cluster)
    return found


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
