"""`phx image sbom` and `phx image provenance`: what an image holds and where it came from, as others read it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.terminal import Terminal, home

if TYPE_CHECKING:
    from builder.images.manifest import Manifest

Name = Annotated[str, typer.Argument(help="Name, name:version or the first digits of its id.")]
File = Annotated[
    Path | None, typer.Option("--output", "-o", help="A file to write instead of printing it.")
]


class Kind(enum.StrEnum):
    """A kind of SBOM."""

    spdx = "spdx"
    cyclonedx = "cyclonedx"


def sbom(
    name: Name,
    form: Annotated[Kind, typer.Option("--format", help="SPDX 2.3 or CycloneDX 1.6.")] = Kind.spdx,
    output: File = None,
) -> None:
    """Print an image's bill of materials: every Debian and Python package, with licence and source."""
    from builder.images.sbom import cyclonedx, inventory, spdx

    found, text = _paper(name, inventory.FILE)
    read = inventory.from_json(text)
    _put(spdx.text(found, read) if form is Kind.spdx else cyclonedx.text(found, read), output)


def provenance(name: Name, output: File = None) -> None:
    """Print where an image came from: recipe, lock, steps, layers, host; an in-toto statement (SLSA v1), not signed."""
    from builder.images.sbom import provenance

    _put(_paper(name, provenance.FILE)[1], output)


def _paper(name: str, file: str) -> tuple[Manifest, str]:
    from builder.errors import InputError, Problem
    from builder.images.catalog import Catalog

    catalog = Catalog(home() / "images")
    found = catalog.get(name)
    try:
        return found, (catalog.folder(found) / file).read_text()
    except OSError:
        if found.origin is not None:
            what = f"{found.name} {found.short} has no {file}: no recipe made it"
            hint = f"phx image show {found.short} tells its packages and where it came from"
            raise InputError(Problem("", what, hint)) from None
        what = f"{found.name} {found.short} has no {file}: it was made before images had one"
        hint = f"phx image rm {found.short}; phx build {found.name}"
        raise InputError(Problem("", what, hint)) from None


def _put(text: str, output: Path | None) -> None:
    """Whole or not at all."""
    if output is None:
        Terminal().say(text.rstrip("\n"))
        return
    aside = output.with_name(f".{output.name}.new")
    aside.write_text(text)
    aside.replace(output)
