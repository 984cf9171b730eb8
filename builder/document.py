"""YAML that people write, turned into validated models, with every mistake told at once and by line.

`read` keeps the line of every key and item beside the data; `check` runs a pydantic model over it and turns what
pydantic found into Problems that say file, line, key, what is wrong and what to do. A key written twice is
an error here (YAML would silently keep the last one).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from builder.errors import InputError, Problem, close, shown

Place = tuple[str | int, ...]
M = TypeVar("M", bound="Written")


class Written(BaseModel):
    """Base of every model of a written document: strict types, frozen, no unknown keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's data, and the line (from 1) at which each place in it starts."""

    path: str
    data: Any
    lines: dict[Place, int] = field(default_factory=dict)

    def where(self, place: Place = ()) -> str:
        """`file:line: key[2].name` of the nearest known place above `place`."""
        shown = _dotted(place)
        near = place
        while near and near not in self.lines:
            near = near[:-1]
        line = self.lines.get(near, 1)
        return f"{self.path}:{line}: {shown}" if shown else f"{self.path}:{line}"

    def problem(self, place: Place, what: str, hint: str = "") -> Problem:
        return Problem(self.where(place), what, hint)


def _dotted(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read(path: Path, load: Callable[[Path], bytes] = Path.read_bytes) -> Document:
    """Parse one YAML file. InputError with the line if it is missing, not UTF-8, or not YAML."""
    named = str(path)
    try:
        text = load(path).decode()
    except FileNotFoundError:
        raise InputError(Problem(named, "there is no such file")) from None
    except OSError as cause:
        raise InputError(Problem(named, f"cannot be read: {cause.strerror}")) from None
    except UnicodeDecodeError as cause:
        raise InputError(Problem(named, f"is not UTF-8 (byte {cause.start})")) from None
    return parse(text, named)


def parse(text: str, path: str = "-") -> Document:
    """Parse YAML text; `path` is what messages call it."""
    problems: list[Problem] = []
    lines: dict[Place, int] = {(): 1}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _value(node, (), lines, problems, path) if node is not None else None
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        line = mark.line + 1 if mark else 1
        raise InputError(Problem(f"{path}:{line}", f"not YAML: {cause.problem}")) from None
    except yaml.reader.ReaderError as cause:
        line = text.count("\n", 0, cause.position) + 1
        what = f"not YAML: character U+{int(cause.character):04X} may not stand in it"
        raise InputError(Problem(f"{path}:{line}", what)) from None
    except RecursionError:
        raise InputError(Problem(path, "not a document: it is nested too deeply")) from None
    if problems:
        raise InputError(problems)
    return Document(path, data, lines)


def _value(
    node: yaml.Node, place: Place, lines: dict[Place, int], problems: list[Problem], path: str
) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(f"{path}:{line}", "a key must be plain text"))
                continue
            key = str(key_node.value)
            here = (*place, key)
            if key in result:
                problems.append(
                    Problem(
                        f"{path}:{line}: {_dotted(here)}", "written twice", "keep one of the two"
                    )
                )
                continue
            lines[here] = line
            result[key] = _value(value_node, here, lines, problems, path)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(item, (*place, n), lines, problems, path) for n, item in enumerate(node.value)
        ]
    if re.fullmatch(r"[-+]?0[0-7_]+", node.value):
        # YAML 1.1 reads 010 as eight. Who wants octal (a file mode) reads it from the text; nobody else gets a number.
        return node.value
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (ValueError, AttributeError, KeyError):  # 2024-99-99, !!timestamp x, !!bool x
        return node.value


def check(document: Document, model: type[M]) -> M:
    """The document as `model`; InputError with every problem, in the order of the lines."""
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "must be a mapping of keys to values"
        keys = ", ".join(_keys(model))
        raise InputError(Problem(document.path, what, f"it may have the keys {keys}"))
    try:
        return model.model_validate(document.data)
    except ValidationError as cause:
        errors = _merged(document, cause.errors())
        raise InputError(by_line(_problem(document, model, e) for e in errors)) from None


def by_line(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once: files in the order in which they first appear, lines in theirs within each."""
    files: dict[str, dict[Problem, int]] = {}
    for p in problems:
        at = re.match(r"(.+?):([0-9]+)(?=:|$)", p.where)
        files.setdefault(at[1] if at else "", {})[p] = int(at[2]) if at else 0
    return [p for found in files.values() for p in sorted(found, key=lambda p: found[p])]


def _merged(document: Document, errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """A value that is none of a union's types is one error, not one for each type."""
    merged: dict[Any, ErrorDetails] = {}
    for n, error in enumerate(errors):
        place = _real(document, error)
        union = place != error["loc"] and error["msg"].startswith("Input should be")
        key = place if union else n
        if key in merged:
            texts = [_wanted(e["msg"]) for e in (merged[key], error)]
            error = {**error, "msg": f"Input should be {' or '.join(texts)}"}
        merged[key] = error
    return list(merged.values())


def _real(document: Document, error: ErrorDetails) -> Place:
    """pydantic adds names of union members to a place; keep only what is in the data, and a key that is missing."""
    place: Place = ()
    data, loc = document.data, error["loc"]
    for part in loc:
        inner = (
            data
            if isinstance(data, dict)
            else dict(enumerate(data if isinstance(data, list) else ()))
        )
        if part in inner:
            data = inner[part]
        elif part == "[key]":  # of a mapping's key itself, pydantic says
            return place
        elif part is loc[-1] and error["type"] == "missing":
            return (*place, part)
        else:
            continue
        place = (*place, part)
    return place


def _problem(document: Document, model: type[BaseModel], error: ErrorDetails) -> Problem:
    place = _real(document, error)
    kind, text = error["type"], error["msg"]
    if kind == "extra_forbidden":
        key = str(place[-1]) if place else ""
        known = _keys(_model_at(model, place[:-1]))
        return document.problem(place, f"unknown key '{key}'", close(key, known))
    if kind == "missing":
        return Problem(
            document.where(place[:-1]), f"'{place[-1]}' is missing", _described(model, place)
        )
    if kind == "value_error":
        said = text.removeprefix("Value error, ")
        what, _, hint = said.partition("; ")
        return document.problem(place, what, hint)
    if kind == "too_short":
        return document.problem(place, "is empty", _described(model, place))
    what, bound = f"{shown(error.get('input'))} is ", error.get("ctx", {})
    if kind == "greater_than_equal":
        what += f"less than {bound['ge']}"
    elif kind == "less_than_equal":
        what += f"more than {bound['le']}"
    else:
        what += f"not {_wanted(text)}"
    if kind == "string_type" and isinstance(error.get("input"), bool) and place[-1:] != ("when",):
        hint = "YAML reads on, off, yes and no as true or false: put the word in quotes"
        return document.problem(place, what, hint)
    return document.problem(place, what, _described(model, place))


def _wanted(text: str) -> str:
    """What pydantic wanted, in this program's words."""
    names = {
        "string": "text", "integer": "a whole number", "boolean": "true or false",
        "list": "a list", "tuple": "a list", "dictionary": "a mapping", "number": "a number",
    }  # fmt: skip
    wanted = text.removeprefix("Input should be ").removeprefix("a valid ")
    return names.get(wanted.partition(" or instance of ")[0], wanted)


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [f.alias or name for name, f in model.model_fields.items()]


def _model_at(model: type[BaseModel] | None, place: Place) -> type[BaseModel] | None:
    """The model that describes the mapping at `place`, found through fields, lists and mappings."""
    for part in place:
        if isinstance(part, int):
            continue
        if model is None:
            return None
        known = {(f.alias or n): f for n, f in model.model_fields.items()}
        if part in known:
            inner = _inner(known[str(part)].annotation)
            model = inner or model
    return model


def _inner(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in get_args(annotation):
        found = _inner(arg)
        if found is not None:
            return found
    return None


def _described(model: type[BaseModel], place: Place) -> str:
    owner = _model_at(model, place[:-1])
    if owner is None or not place:
        return ""
    for name, f in owner.model_fields.items():
        if (f.alias or name) == place[-1]:
            return f.description or ""
    return ""
