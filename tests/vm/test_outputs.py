"""What comes out of a real build: documents that their own libraries accept, formats that their own tools accept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vm.conftest import Phx

pytestmark = pytest.mark.root


def test_the_documents_are_valid_by_their_own_libraries(image: Phx, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    told = image.json("image", "show", "base")
    assert isinstance(told, dict)
    packages = {(p["name"], p["version"]) for p in told["packages"]}
    spdx = tmp_path / "base.spdx.json"
    image.run("image", "sbom", "base", "-o", spdx)
    document = parse_file(str(spdx))
    assert validate_full_spdx_document(document) == []
    assert {(p.name, p.version) for p in document.packages} >= packages
    assert image.run("image", "sbom", "base").stdout == spdx.read_text()

    text = image.run("image", "sbom", "base", "--format", "cyclonedx").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    assert {(c["name"], c["version"]) for c in components} >= packages
    licensed = [c for c in components if c.get("licenses")]
    assert len(licensed) > len(components) * 0.7, "most of Debian's copyright files are DEP-5"

    provenance = json.loads(image.run("image", "provenance", "base").stdout)
    assert {s["name"]: s["digest"]["sha256"] for s in provenance["subject"]} == dict(
        told["digests"]
    )
    inputs = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert len(inputs) >= len(packages)
