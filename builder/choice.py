"""What a command line names: recipes, by name or folder, and the variants of those that have several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.document import read
from builder.errors import InputError, Problem, close
from builder.language.chain import names_in


@dataclass(frozen=True, slots=True)
class Chosen:
    """One image to make. `name` is what it will be called; `variant` is "" for a recipe without a matrix."""

    name: str
    folder: Path
    variant: str = ""


def asked(recipes: Sequence[str] | None, all_: bool, library: Path) -> list[Chosen]:
    """The images of the recipes that are named, or of every recipe; a recipe with a matrix stands for its variants.

    recipes  NAME or FOLDER, or one variant of it as NAME:VARIANT
    InputError for none, for names beside --all, and for what is not there.
    """
    if all_ and recipes:
        raise InputError(Problem("", "--all means every recipe", "leave the names out, or --all"))
    if not all_ and not recipes:
        hint = f"name one, as in: phx build {next(iter(names_in(library)), 'NAME')}; or --all"
        raise InputError(Problem("", "no recipe is named", hint))
    names = names_in(library) if all_ else list(recipes or [])
    if not names:
        raise InputError(Problem("", f"there are no recipes in {library}"))
    found = dict.fromkeys(chosen for name in names for chosen in _variants(name, library))
    return list(found)


def _variants(text: str, library: Path) -> list[Chosen]:
    named, colon, variant = text.rpartition(":")
    folder = folder_of(named if colon else text, library)
    name = folder.absolute().name
    known = variants_in(folder)
    if colon and variant not in known:
        hint = close(variant, known) or f"it has no matrix: phx build {named}"
        raise InputError(Problem("", f"the recipe {name} has no variant '{variant}'", hint))
    if not known:
        return [Chosen(name, folder)]
    return [Chosen(f"{name}-{v}", folder, v) for v in ([variant] if colon else known)]


def folder_of(recipe: str, library: Path) -> Path:
    """The recipe's folder: a path when it looks like one, else a name in the library. InputError if neither."""
    path = Path(recipe)
    if path.name == "recipe.yaml":
        path = path.parent
    if "/" in recipe or (path / "recipe.yaml").is_file():
        return path
    if (library / recipe / "recipe.yaml").is_file():
        return library / recipe
    raise InputError(Problem("", f"no recipe '{recipe}'", close(recipe, names_in(library))))


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Parameters by name, from NAME=VALUE. InputError for what is none."""
    wrong = [t for t in texts if "=" not in t]
    if wrong:
        raise InputError(Problem("--set", f"'{t}' is not NAME=VALUE") for t in wrong)
    return dict(t.split("=", 1) for t in texts)


def variants_in(folder: Path) -> list[str]:
    """The names in a recipe's matrix; none when it cannot be read, which loading it will tell."""
    try:
        data = (folder / "recipe.yaml").read_bytes()
        if b"\nmatrix:" not in data:  # what most recipes are, told without parsing them
            return []
        matrix = read(folder / "recipe.yaml", lambda _: data).data["matrix"]
        return [str(name) for name in matrix]
    except (OSError, InputError, KeyError, TypeError):
        return []
