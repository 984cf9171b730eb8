"""What users can write, call or meet is named in the documents: keys, commands, options, errors, step kinds, words."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from builder import document, errors, plan
from builder.language.sections import Recipe
from cluster.cli import app
from cluster.spec import ClusterSpec

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
DOCS = "\n".join(p.read_text() for p in sorted((REPO / "docs").glob("*.md")))


def models(top: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model that its fields hold."""
    found = {top}

    def look(annotation: object) -> None:
        if (
            isinstance(annotation, type)
            and issubclass(annotation, BaseModel)
            and annotation not in found
        ):
            found.update(models(annotation))
        for inner in typing.get_args(annotation):
            look(inner)

    for field in top.model_fields.values():
        look(field.annotation)
    return found


def keys(top: type[BaseModel]) -> list[str]:
    return sorted({f.alias or n for m in models(top) for n, f in m.model_fields.items()})


@pytest.mark.parametrize(("top", "page"), [(Recipe, "recipe.md"), (ClusterSpec, "cluster.md")])
def test_every_key_is_in_its_reference(top: type[BaseModel], page: str) -> None:
    text = (REPO / "docs" / page).read_text()
    missing = [k for k in keys(top) if not re.search(rf"`[^`\n]*\b{re.escape(k)}\b[^`\n]*`", text)]
    assert missing == []


def commands(group: typer.Typer, prefix: str = "phx") -> list[str]:
    found = []
    for command in group.registered_commands:
        found.append(f"{prefix} {command.name or command.callback.__name__}")  # type: ignore[union-attr]
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        found += commands(inner.typer_instance, f"{prefix} {inner.name}")
    return found


def test_every_command_is_in_the_readme() -> None:
    assert [c for c in commands(app) if f"`{c}" not in README] == []


def test_every_error_and_exit_code_is_in_the_readme() -> None:
    kinds = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.PhiloxeniaError)
    ]
    assert len(kinds) >= 6
    missing = [
        c.__name__
        for c in kinds
        if c is not errors.PhiloxeniaError and c.__name__ not in README + DOCS
    ]
    assert missing == []


def test_every_step_kind_is_told_of() -> None:
    kinds = [c.kind for c in typing.get_args(plan.Step)]
    assert [k for k in kinds if k not in DOCS] == []


def test_every_shipped_recipe_is_told_of() -> None:
    told = (REPO / "docs" / "appliances.md").read_text()
    names = [p.parent.name for p in (REPO / "recipes").glob("*/recipe.yaml")]
    assert [n for n in names if f"| `{n}` |" not in told] == []


EXAMPLES = [
    pytest.param(page, number, text, id=f"{page.name}-{number}")
    for page in (REPO / "README.md", *sorted((REPO / "docs").glob("*.md")))
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S))
    if re.search(r"^(version|cluster): ", text, re.M)
]


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES)
def test_whole_examples_are_right(page: Path, number: int, text: str) -> None:
    """Recipes and cluster files in the documents say nothing that they may not."""
    written = document.parse(text, f"{page.name}, example {number}")
    document.check(written, Recipe if "version" in written.data else ClusterSpec)


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in (REPO / "README.md", *(REPO / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_machines_path_and_no_mirror_is_named() -> None:
    """Nothing in the repository tells where it was written, or which mirror was used."""
    tops = ("builder", "contextualize", "cluster", "recipes", "docs", "tests")
    listed = [p for top in tops for p in (REPO / top).rglob("*")]
    kinds = (".py", ".md", ".yaml", ".toml", ".json", ".txt", "")
    for path in (*listed, REPO / "README.md", REPO / "Makefile", REPO / "pyproject.toml"):
        if path.is_file() and path.suffix in kinds and path != Path(__file__):
            text = path.read_text(errors="replace")
            assert not re.search(r"(deb|security)\.debian\.org|pypi\.org|npmjs\.", text), path
            assert "/work" + "/main" not in text, path
