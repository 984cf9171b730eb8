"""What may be written in recipe.yaml and in the fragments that it includes: models, with every key described."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from builder.document import Written
from builder.language.context import Deployment
from builder.language.entries import (
    Archive,
    CapabilityItem,
    Checks,
    Directory,
    File,
    Kernel,
    PackageItem,
    Parameter,
    PythonItem,
    Root,
    Run,
    Services,
    User,
)
from builder.language.kinds import (
    Format,
    Inside,
    Many,
    Name,
    ParameterName,
    Seconds,
    Size,
    Value,
)
from builder.language.requires import Requires


class Head(Written):
    """Which recipe it is, and what it stands on."""

    name: Name = Field(description="the appliance's name, the same as its folder's")
    version: str = Field(description="the appliance's version, for people, in quotes")
    summary: str = Field(description="one line: what the appliance is for")
    from_: Name | None = Field(
        None,
        alias="from",
        description="the parent recipe's name, found under recipes/ or PHX_RECIPES",
    )
    suite: str | None = Field(None, description="Debian suite; only in a recipe without a parent")
    include: Many[Inside] = Field(
        (), description="fragments below the recipe's folder; their sections come before its own"
    )
    set: dict[str, Value] = Field(
        default_factory=dict, description="values for parameters of parents and fragments"
    )
    matrix: dict[Name, dict[str, Value]] = Field(
        default_factory=dict,
        description="variants of the image, each a name and the values of parameters that make it",
    )


class Sections(Written):
    """What a recipe and a fragment have in common."""

    parameters: dict[ParameterName, Parameter] = Field(
        default_factory=dict, description="values that children and the command line may choose"
    )
    sources: Many[Archive] = Field(
        (), description="archives of Debian packages besides Debian's own, with their keys"
    )
    packages: Many[PackageItem] = Field((), description="Debian packages, name or name=version")
    pip: Many[PythonItem] = Field(
        (), description="Python packages, name or name==version, or wheels of the recipe's folder"
    )
    users: Many[User] = Field((), description="users of the image, and their groups")
    directories: Many[Directory] = Field((), description="directories of the image")
    files: Many[File] = Field((), description="files of the image")
    services: Services = Field(
        default_factory=Services, description="systemd units on, off, masked"
    )
    run: Many[Run] = Field((), description="scripts, in order")
    capabilities: Many[CapabilityItem] = Field(
        (), description="words for what the image can do, in its manifest, besides its parents'"
    )
    context: Deployment = Field(
        default_factory=Deployment, description="how its nodes join a cluster: late facts"
    )


class Fragment(Sections):
    """One file that a recipe includes."""


class Recipe(Sections, Head):
    """One recipe.yaml."""

    kernel: Kernel | None = Field(
        None, description="kernel and drivers; a child's replaces its parent's"
    )
    size: Size | None = Field(None, description="size of the root filesystem, as in 1G")
    root: Root | None = Field(None, description="the root filesystem's kind, at first ext4")
    requires: Requires = Field(
        default_factory=Requires, description="what its nodes' host must be, besides its parents'"
    )
    max_age: Seconds | None = Field(
        None, description="how old its packages may get before the image is called aged, as in 30d"
    )
    formats: Many[Format] = Field(
        (), description="what `phx image export` writes into a folder, as in qcow2 or bootable-vhd"
    )
    tests: Checks = Field(
        default_factory=Checks, description="tests of the appliance, besides its parents'"
    )


def keys(model: type[Written]) -> list[str]:
    """A model's keys as they are written."""
    return [f.alias or name for name, f in model.model_fields.items()]


def schema() -> dict[str, Any]:
    """JSON Schema of recipe.yaml, for editors."""
    return Recipe.model_json_schema(by_alias=True)
