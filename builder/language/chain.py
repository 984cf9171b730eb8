"""A recipe's folder turned into its chain: parents first, each with its fragments, and every parameter decided.

Nothing here touches the disk but through what the caller gives: `load` reads, `names` lists a library, `real` resolves.
What a reader could get wrong: a recipe sees the parameters of its parents, of its fragments and its own, never
those of its children; but children may choose the values of what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.document import Document, by_line, check, read
from builder.errors import InputError, Problem, close, shown
from builder.language.entries import Parameter
from builder.language.kinds import Value
from builder.language.sections import Fragment, Recipe, Sections, keys

Load = Callable[[Path], bytes]


def names_in(library: Path) -> list[str]:
    """The recipes of a library, for hints."""
    return sorted(p.parent.name for p in library.glob("*/recipe.yaml"))


@dataclass(frozen=True, slots=True)
class Source:
    """One file with sections: a fragment, or a recipe itself. `data` holds a fragment's bytes."""

    document: Document
    sections: Sections
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Link:
    """One recipe of the chain."""

    folder: Path
    document: Document
    recipe: Recipe
    fragments: tuple[Source, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """In the order in which their sections run."""
        return (*self.fragments, Source(self.document, self.recipe))


@dataclass(frozen=True, slots=True)
class Decided:
    """Every parameter's value, and what each recipe of the chain sees of them, root first."""

    values: dict[str, Value]
    visible: tuple[dict[str, Value], ...]


def reason(cause: OSError) -> str:
    absent = isinstance(cause, FileNotFoundError)
    return "there is no such file" if absent else cause.strerror or str(cause)


def chain(
    folder: Path,
    library: Path,
    load: Load,
    names: Callable[[Path], list[str]],
    real: Callable[[Path], Path],
) -> list[Link]:
    """Root first. Raises InputError with all that is wrong in any file; a missing parent ends the chain."""
    links: list[Link] = []
    problems: list[Problem] = []
    seen: list[str] = []
    while True:
        try:
            document = read(folder / "recipe.yaml", load)
            recipe = check(document, Recipe)
        except InputError as cause:
            problems[:0] = cause.problems
            break
        fragments = _fragments(folder, document, recipe, load, problems)
        links.insert(0, Link(folder, document, recipe, fragments))
        seen.append(recipe.name)
        called = real(folder).name if folder.name else recipe.name
        if recipe.name != called:
            what = f"'{recipe.name}' is not the folder's name '{called}'"
            hint = "a recipe is found by its folder: give both the same name"
            problems.append(document.problem(("name",), what, hint))
        if recipe.from_ is None:
            break
        if recipe.suite is not None:
            what = "only a recipe without 'from' may name a suite"
            problems.append(document.problem(("suite",), what))
        if recipe.from_ in seen:
            circle = " -> ".join([*seen[seen.index(recipe.from_) :], recipe.from_])
            what = f"a recipe cannot be its own ancestor: {circle}"
            problems.append(document.problem(("from",), what))
            break
        parent = library / recipe.from_
        try:
            load(parent / "recipe.yaml")
        except OSError:
            hint = close(recipe.from_, names(library))
            problems.append(document.problem(("from",), f"no recipe '{recipe.from_}'", hint))
            break
        folder = parent
    if problems:
        raise InputError(by_line(problems))
    return links


def _fragments(
    folder: Path, document: Document, recipe: Recipe, load: Load, problems: list[Problem]
) -> tuple[Source, ...]:
    found = []
    for n, name in enumerate(recipe.include):
        place, path = ("include", n), folder / name
        if name == "recipe.yaml":
            hint = "include files that have sections only"
            problems.append(document.problem(place, "a recipe cannot include itself", hint))
            continue
        if name in recipe.include[:n]:
            hint = "keep one of the two"
            problems.append(document.problem(place, f"{name} is included twice", hint))
            continue
        try:
            data = load(path)
        except OSError as cause:
            problems.append(document.problem(place, f"{path}: {reason(cause)}"))
            continue
        try:
            found.append(_fragment(path, data))
        except InputError as cause:
            problems += cause.problems
    return tuple(found)


def _fragment(path: Path, data: bytes) -> Source:
    document = read(path, lambda _: data)
    problems: list[Problem] = []
    sections = Fragment()
    if isinstance(document.data, dict):
        foreign = {k for k in keys(Recipe) if k not in keys(Fragment)} & document.data.keys()
        for key in foreign:
            what = f"only recipe.yaml may have '{key}'"
            hint = f"a fragment has the keys {', '.join(keys(Sections))}"
            if key == "include":
                what, hint = "a fragment cannot include", "include both files from recipe.yaml"
            problems.append(document.problem((key,), what, hint))
        rest = {k: v for k, v in document.data.items() if k not in foreign}
        document = replace(document, data=rest)
    try:
        sections = check(document, Fragment)
    except InputError as cause:
        problems += cause.problems
    if problems:
        raise InputError(by_line(problems))
    return Source(document, sections, data)


def decide(
    links: list[Link], given: Mapping[str, str], variant: str, problems: list[Problem]
) -> Decided:
    """Default, then each recipe's `set` from root to leaf, then the variant's values, then the command line."""
    known: dict[str, Parameter] = {}
    values: dict[str, Value] = {}
    declared: dict[str, str] = {}
    seen: list[tuple[str, ...]] = []

    def declare(source: Source, parents: set[str]) -> None:
        for name, parameter in source.sections.parameters.items():
            if name in parents:
                what = f"a parent has a parameter '{name}' already"
                hint = "change its value with 'set'"
                problems.append(source.document.problem(("parameters", name), what, hint))
            elif name in known:
                what = f"'{name}' is declared already, in {declared[name]}"
                hint = "keep one of the two"
                problems.append(source.document.problem(("parameters", name), what, hint))
            known[name], values[name] = parameter, parameter.default
            declared[name] = source.document.where(("parameters", name)).rpartition(": ")[0]

    for link in links:
        parents = set(known)
        for fragment in link.fragments:
            declare(fragment, parents)
        for name, value in link.recipe.set.items():
            place = ("set", name)
            if name not in known:
                whose = "parent or fragment" if link.fragments else "parent"
                what = f"no {whose} has a parameter '{name}'"
                problems.append(link.document.problem(place, what, close(name, known)))
            elif not known[name].takes(value):
                what = f"{shown(value)} is not {known[name].noun}"
                problems.append(link.document.problem(place, what))
            else:
                values[name] = value
        declare(link.sources[-1], parents)
        seen.append(tuple(known))
    values |= _variant(links[-1], variant, known, problems)
    for name, text in given.items():
        if name not in known:
            problems.append(Problem(f"--set {name}", "no such parameter", close(name, known)))
            continue
        try:
            values[name] = known[name].read(text)
        except ValueError as cause:
            problems.append(Problem(f"--set {name}", str(cause)))
    return Decided(values, tuple({n: values[n] for n in names} for names in seen))


def _variant(
    leaf: Link, variant: str, known: Mapping[str, Parameter], problems: list[Problem]
) -> dict[str, Value]:
    """The values of one variant of the leaf; what is wrong in any of its variants is told."""
    found: dict[str, Value] = {}
    matrix, document = leaf.recipe.matrix, leaf.document
    for n, (name, values) in enumerate(matrix.items()):
        place: tuple[str | int, ...] = ("matrix", name)
        called = f"{leaf.recipe.name}-{name}"
        if len(called) > 40:
            what = f"the image would be called {called}, which is longer than 40"
            problems.append(document.problem(place, what, "give it a shorter name"))
        same = [other for other in list(matrix)[:n] if matrix[other] == values]
        if same:
            what = f"it has the same values as {same[0]}"
            problems.append(document.problem(place, what, "keep one of the two"))
        for parameter, value in values.items():
            here = (*place, parameter)
            if parameter not in known:
                what, hint = f"no parameter '{parameter}'", close(parameter, known)
                problems.append(document.problem(here, what, hint))
            elif not known[parameter].takes(value):
                what = f"{shown(value)} is not {known[parameter].noun}"
                problems.append(document.problem(here, what))
            elif name == variant:
                found[parameter] = value
    if variant and variant not in matrix:
        what = f"the recipe {leaf.recipe.name} has no variant '{variant}'"
        problems.append(Problem("", what, close(variant, matrix)))
    return found
