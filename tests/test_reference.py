"""docs/recipe.md says of every key what its schema says, word for word; more may follow. One text, two readers.

Not checked: the column of types, which says more than a type does, and what `when` does, which has a section.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from builder.language.sections import Recipe

PAGE = (Path(__file__).parent.parent / "docs/recipe.md").read_text()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


ROWS = {row[0].strip("`"): row for row in map(cells, PAGE.splitlines()) if len(row) == 4}
"""Of all tables with the columns key, type, default, meaning."""


def held(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in held(inner)]


def kind(annotation: object) -> object:
    origin = typing.get_origin(annotation)
    return kind(typing.get_args(annotation)[0]) if origin is typing.Annotated else origin


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its place as the page writes it: `files[].path`, `parameters.NAME.type`."""
    for name, field in model.model_fields.items():
        path = above + (field.alias or name)
        yield path, field
        below = {tuple: "[]", list: "[]", dict: ".NAME"}.get(kind(field.annotation), "")  # type: ignore[call-overload]
        for inner in held(field.annotation):
            yield from keys(inner, f"{path}{below}.")


KEYS = {
    path: field
    for path, field in keys(Recipe)
    if not path.startswith(("services.disable[]", "services.mask[]"))  # as in enable
}


def plain(text: str) -> str:
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("\\|", "|")


@pytest.mark.parametrize("path", [p for p in KEYS if not p.endswith(".when")])
def test_a_key_is_told_as_its_schema_tells_it(path: str) -> None:
    assert path in ROWS, f"docs/recipe.md: | `{path}` | TYPE | DEFAULT | {KEYS[path].description} |"
    _, _, default, meaning = ROWS[path]
    assert plain(meaning).startswith(plain(KEYS[path].description or "?")), (
        "the schema's words come first"
    )
    if KEYS[path].is_required():
        assert default == "required"
    if KEYS[path].annotation is bool:
        assert default == f"`{str(KEYS[path].default).lower()}`"


def test_a_condition_is_told_where_there_can_be_one() -> None:
    conditions = [p for p in KEYS if p.endswith(".when") and not p.startswith("context.")]
    assert [p for p in conditions if p not in ROWS] == []


def test_every_row_is_of_a_key() -> None:
    assert [
        row
        for row in ROWS
        if row not in KEYS and row not in ("key", "---", "matrix.VARIANT.PARAMETER")
    ] == []
