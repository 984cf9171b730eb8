"""Recipe folders turned into one flat, checked recipe: parents first, parameters decided, templates rendered.

A recipe is a folder with `recipe.yaml` and the templates and files that it names. `from:` names its parent; the
chain may have any depth. Nothing here touches the disk: what is read comes through `load`.

What a reader could get wrong: the sections of one recipe always run in the order packages, files, services, run,
whatever order they are written in, and all of a parent's sections run before its child's. Every text in
those sections is a jinja2 template over the parameters, with strict undefined.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

import jinja2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from builder import units
from builder.document import Document, Place, Written, by_line, check, read
from builder.errors import InputError, Problem, close, shown

Load = Callable[[Path], bytes]
Value = str | int | bool
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]

ROOT_SUITES = ("bookworm",)


def name_of(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", text):
        raise ValueError(
            f"'{text}' is not a name; write at most 40 small letters, digits and dashes, a letter first"
        )
    return text


def _parameter(text: str) -> str:
    # A dash would be a minus to jinja2.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text):
        raise ValueError(
            f"'{text}' is not a parameter's name; "
            "write at most 40 small letters, digits and underscores, a letter first"
        )
    return text


def _package(text: str) -> str:
    return text if "{{" in text else _plain_package(text)


def _plain_package(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+~:-]+)?", text):
        return text
    raise ValueError(
        f"'{text}' is not a Debian package; write name or name=version, as in nginx or nginx=1.22.1-9"
    )


def _target(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or text.endswith("/") or "\0" in text:
        raise ValueError(
            f"'{text}' is not a place in the image; write an absolute path without '..'"
        )
    return str(path)


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"'{text}' is outside the recipe; write a path below the recipe's folder")
    return str(path)


def _mode(value: object) -> int:
    # A document gives 0755 as text. A bare 755 is a number, the mode 01363: refused, not guessed at.
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value):
        return int(value, 8)
    raise ValueError(f"{shown(value)} is not a file mode; write it in octal, as in 0644")


def _owner(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?", text):
        raise ValueError(f"'{text}' is not an owner; write user or user:group, as in www-data")
    return text


Name = Annotated[str, AfterValidator(name_of)]
ParameterName = Annotated[str, AfterValidator(_parameter)]
Package = Annotated[str, AfterValidator(_package)]
PlainPackage = Annotated[str, AfterValidator(_plain_package)]
Target = Annotated[str, AfterValidator(_target)]
Inside = Annotated[str, AfterValidator(_inside)]
Mode = Annotated[int, BeforeValidator(_mode)]
Owner = Annotated[str, AfterValidator(_owner)]
Size = Annotated[int, BeforeValidator(units.size)]


class Parameter(Written):
    """One value that a child recipe (`set:`) or the command line (`--set`) may change."""

    type: Literal["text", "integer", "boolean"] = Field(
        "text", description="text, integer or boolean"
    )
    default: Value = Field(description="the value when nobody sets another")
    summary: str = Field("", description="what it is for")

    @model_validator(mode="after")
    def _fits(self) -> Parameter:
        if not self.takes(self.default):
            raise ValueError(f"the default {shown(self.default)} is not {self.noun}")
        return self

    @property
    def noun(self) -> str:
        return {"text": "text", "integer": "a whole number", "boolean": "true or false"}[self.type]

    def takes(self, value: Value) -> bool:
        if self.type == "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, {"text": str, "boolean": bool}[self.type])

    def read(self, text: str) -> Value:
        """A command line's text as this parameter's type; ValueError if it does not fit."""
        if self.type == "integer" and re.fullmatch(r"-?[0-9]+", text):
            return int(text)
        if self.type == "boolean" and text in ("true", "false"):
            return text == "true"
        if self.type == "text":
            return text
        raise ValueError(f"'{text}' is not {self.noun}")


class File(Written):
    """One file of the image, from exactly one of `content`, `template` and `source`."""

    path: Target = Field(description="where it goes in the image, absolute")
    content: str | None = Field(None, description="its text, a template over the parameters")
    template: Inside | None = Field(None, description="a jinja2 template below the recipe's folder")
    source: Inside | None = Field(
        None, description="a file below the recipe's folder, copied as it is"
    )
    mode: Mode = Field(0o644, description="permissions in octal, as in 0644")
    owner: Owner = Field("root", description="user[:group] that owns it in the image")

    @model_validator(mode="after")
    def _one_origin(self) -> File:
        if sum(x is not None for x in (self.content, self.template, self.source)) != 1:
            raise ValueError(
                f"the file {self.path} needs one origin; write exactly one of content, template, source"
            )
        return self


class Services(Written):
    """systemd units by name."""

    enable: Many[str] = Field((), description="units that start at boot")
    disable: Many[str] = Field((), description="units that do not start by themselves")
    mask: Many[str] = Field((), description="units that cannot start at all")


class Run(Written):
    """A script, run by sh as root inside the image's tree; it fails on the first failing line."""

    name: str = Field(description="what it does, for progress and errors")
    script: str | None = Field(None, description="lines for sh -eu, a template over the parameters")
    template: Inside | None = Field(None, description="a jinja2 template below the recipe's folder")

    @model_validator(mode="after")
    def _one_origin(self) -> Run:
        if (self.script is None) == (self.template is None):
            raise ValueError(
                f"'{self.name}' needs one script; write exactly one of script, template"
            )
        return self


class Kernel(Written):
    """What boots the image."""

    package: PlainPackage = Field(description="the Debian kernel package")
    modules: Many[str] = Field((), description="drivers that the initrd loads, in this order")
    cmdline: str = Field("", description="kernel parameters, besides console and root")


class Recipe(Written):
    """One recipe.yaml."""

    name: Name = Field(description="the appliance's name, the same as its folder's")
    version: str = Field(description="the appliance's version, for people, in quotes")
    summary: str = Field(description="one line: what the appliance is for")
    from_: Name | None = Field(None, alias="from", description="the parent recipe's name")
    suite: str | None = Field(None, description="Debian suite; only in a recipe without a parent")
    parameters: dict[ParameterName, Parameter] = Field(
        default_factory=dict, description="values to choose"
    )
    set: dict[str, Value] = Field(
        default_factory=dict, description="values for parents' parameters"
    )
    packages: Many[Package] = Field((), description="Debian packages, name or name=version")
    files: Many[File] = Field((), description="files of the image")
    services: Services = Field(
        default_factory=Services, description="systemd units on, off, masked"
    )
    run: Many[Run] = Field((), description="scripts, in order")
    kernel: Kernel | None = Field(
        None, description="kernel and drivers; a child's replaces its parent's"
    )
    size: Size | None = Field(None, description="size of the root filesystem, as in 1G")


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
class Part:
    """One recipe of the chain, rendered: nothing in it depends on a parameter any more."""

    recipe: str
    where: str
    packages: tuple[tuple[str, str], ...]
    """(package, `file:line` that asked for it)."""
    files: tuple[Placed, ...]
    services: Services
    run: tuple[tuple[str, str], ...]
    """(name, script)."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A recipe with all its parents, root first. `digest` covers every byte that was read for it."""

    name: str
    version: str
    summary: str
    suite: str
    kernel: Kernel
    size: int
    parts: tuple[Part, ...]
    parameters: tuple[tuple[str, Value], ...]
    digest: str


@dataclass(slots=True)
class _Chain:
    documents: list[Document]
    recipes: list[Recipe]
    problems: list[Problem]


def load(
    folder: Path, library: Path, given: Mapping[str, str], load: Load = Path.read_bytes
) -> Flat:
    """The recipe in `folder`, flat.

    library   the folder in which parents are looked up by name
    given     parameter values from the command line, as texts
    load      reads one file
    Raises InputError with every problem of every recipe in the chain.
    """
    chain = _chain(folder, library, load)
    if chain.problems:
        raise InputError(chain.problems)
    problems = chain.problems
    values = _values(chain, given)
    digest = hashlib.sha256()

    def fetch(document: Document, place: Place, name: str) -> bytes:
        path = Path(document.path).parent / name
        try:
            data = load(path)
        except OSError as cause:
            reason = (
                "there is no such file" if isinstance(cause, FileNotFoundError) else cause.strerror
            )
            problems.append(document.problem(place, f"{path}: {reason}"))
            return b""
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return data

    parts = []
    for document, recipe in zip(chain.documents, chain.recipes, strict=True):
        digest.update(repr(recipe).encode())
        parts.append(_part(document, recipe, values, fetch, problems))
    leaf, document = chain.recipes[-1], chain.documents[-1]
    suite = chain.recipes[0].suite
    kernel = next((r.kernel for r in reversed(chain.recipes) if r.kernel), None)
    size = next((r.size for r in reversed(chain.recipes) if r.size), None)
    root = chain.documents[0]
    if suite is None:
        problems.append(
            root.problem((), "'suite' is missing", "a recipe without 'from' names its suite")
        )
    elif suite not in ROOT_SUITES:
        problems.append(
            root.problem(("suite",), f"unknown suite '{suite}'", close(suite, ROOT_SUITES))
        )
    if kernel is None:
        problems.append(
            root.problem((), "'kernel' is missing", "name the kernel package and drivers")
        )
    if size is None:
        problems.append(
            root.problem((), "'size' is missing", "write the root filesystem's size: 1G")
        )
    if problems or suite is None or kernel is None or size is None:
        raise InputError(by_line(problems))
    digest.update(repr(sorted(values.items())).encode())
    return Flat(
        leaf.name, leaf.version, leaf.summary, suite, kernel, size, tuple(parts),
        tuple(sorted(values.items())), digest.hexdigest(),
    )  # fmt: skip


def _chain(folder: Path, library: Path, load: Load) -> _Chain:
    """Root first. A missing parent or a cycle ends the chain there, as a problem of the recipe that named it."""
    chain = _Chain([], [], [])
    seen: list[str] = []
    while True:
        try:
            document = read(folder / "recipe.yaml", load)
            recipe = check(document, Recipe)
        except InputError as cause:
            chain.problems[:0] = cause.problems
            break
        chain.documents.insert(0, document)
        chain.recipes.insert(0, recipe)
        seen.append(recipe.name)
        if folder.name and recipe.name != folder.resolve().name:
            chain.problems.append(
                document.problem(
                    ("name",), f"'{recipe.name}' is not the folder's name '{folder.resolve().name}'",
                    "a recipe is found by its folder: give both the same name",
                )
            )  # fmt: skip
        if recipe.from_ is None:
            break
        if recipe.suite is not None:
            chain.problems.append(
                document.problem(("suite",), "only a recipe without 'from' may name a suite")
            )
        if recipe.from_ in seen:
            circle = " -> ".join([*seen[seen.index(recipe.from_) :], recipe.from_])
            chain.problems.append(
                document.problem(("from",), f"a recipe cannot be its own ancestor: {circle}")
            )
            break
        parent = library / recipe.from_
        try:
            load(parent / "recipe.yaml")
        except OSError:
            names = sorted(p.parent.name for p in library.glob("*/recipe.yaml"))
            chain.problems.append(
                document.problem(
                    ("from",), f"no recipe '{recipe.from_}'", close(recipe.from_, names)
                )
            )
            break
        folder = parent
    return chain


def _values(chain: _Chain, given: Mapping[str, str]) -> dict[str, Value]:
    """Parameters as decided: default, then each recipe's `set` from root to leaf, then the command line."""
    known: dict[str, Parameter] = {}
    values: dict[str, Value] = {}
    for document, recipe in zip(chain.documents, chain.recipes, strict=True):
        for name, value in recipe.set.items():
            if name not in known:
                what = f"no parent has a parameter '{name}'"
                chain.problems.append(document.problem(("set", name), what, close(name, known)))
            elif not known[name].takes(value):
                what = f"{shown(value)} is not {known[name].noun}"
                chain.problems.append(document.problem(("set", name), what))
            else:
                values[name] = value
        for name, parameter in recipe.parameters.items():
            if name in known:
                what = f"a parent has a parameter '{name}' already"
                hint = "change its value with 'set'"
                chain.problems.append(document.problem(("parameters", name), what, hint))
            known[name] = parameter
            values[name] = parameter.default
    for name, text in given.items():
        if name not in known:
            chain.problems.append(Problem(f"--set {name}", "no such parameter", close(name, known)))
            continue
        try:
            values[name] = known[name].read(text)
        except ValueError as cause:
            chain.problems.append(Problem(f"--set {name}", str(cause)))
    return values


def _part(
    document: Document,
    recipe: Recipe,
    values: Mapping[str, Value],
    fetch: Callable[[Document, Place, str], bytes],
    problems: list[Problem],
) -> Part:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)

    def render(text: str, place: Place, inside: str = "") -> str:
        named = f"{inside}: " if inside else ""
        try:
            return environment.from_string(text).render(values)
        except jinja2.UndefinedError as cause:
            missing = re.search(r"'([^']+)' is undefined", str(cause))
            name = missing[1] if missing else ""
            what = f"{named}no parameter '{name}'" if name else f"{named}{cause}"
            problems.append(document.problem(place, what, close(name, values) if name else ""))
        except jinja2.TemplateSyntaxError as cause:
            said = (cause.message or "not a template").rstrip(".")
            problems.append(document.problem(place, f"{named}line {cause.lineno}: {said}"))
        except Exception as cause:  # a filter or an operator on values that it does not take
            problems.append(document.problem(place, f"{named}cannot be rendered: {cause}"))
        return ""

    packages = []
    for n, text in enumerate(recipe.packages):
        name = render(text, ("packages", n))
        try:
            packages.append((_plain_package(name), document.where(("packages", n))))
        except ValueError as cause:
            if name:
                what, _, hint = str(cause).partition("; ")
                problems.append(document.problem(("packages", n), what, hint))
    files = []
    for n, file in enumerate(recipe.files):
        here: Place = ("files", n)
        if file.source is not None:
            data = fetch(document, (*here, "source"), file.source)
        elif file.template is not None:
            text = fetch(document, (*here, "template"), file.template).decode(errors="replace")
            data = render(text, (*here, "template"), file.template).encode()
        else:
            data = render(file.content or "", (*here, "content")).encode()
        files.append(Placed(file.path, file.mode, file.owner, data))
    for path in dict.fromkeys(f.path for f in files):
        twice = [n for n, f in enumerate(files) if f.path == path]
        if len(twice) > 1:
            problems.append(
                document.problem(("files", twice[1], "path"), f"{path} is written twice")
            )
    run = []
    for n, step in enumerate(recipe.run):
        here = ("run", n)
        if step.template is not None:
            text = fetch(document, (*here, "template"), step.template).decode(errors="replace")
            run.append((step.name, render(text, (*here, "template"), step.template)))
        else:
            run.append((step.name, render(step.script or "", (*here, "script"))))
    return Part(
        recipe.name, document.path, tuple(packages), tuple(files), recipe.services, tuple(run)
    )
