"""An image's inventory as an SPDX 2.3 document in JSON."""

from __future__ import annotations

import datetime
import json
import re
from typing import TYPE_CHECKING, Any

from builder.images.manifest import Manifest
from builder.images.sbom import licences, purl
from builder.images.sbom.inventory import Distribution, Installed, Inventory

if TYPE_CHECKING:
    from spdx_tools.spdx.model import Document, Package


def document(image: Manifest, inventory: Inventory) -> Document:
    """The image, and in it every Debian and Python package. Declared licences are what the packages say; nothing is
    concluded from it.
    """
    from spdx_tools.spdx.model import (
        Actor,
        ActorType,
        Checksum,
        ChecksumAlgorithm,
        CreationInfo,
        Document,
        Package,
        PackagePurpose,
        Relationship,
        RelationshipType,
        SpdxNoAssertion,
    )

    created = datetime.datetime.fromtimestamp(image.epoch, datetime.UTC).replace(tzinfo=None)
    head = CreationInfo(
        "SPDX-2.3", "SPDXRef-DOCUMENT", f"{image.name}-{image.version}",
        f"urn:philoxenia:image:{image.id}:spdx", [Actor(ActorType.TOOL, "philoxenia")], created,
    )  # fmt: skip
    files = "; ".join(f"{name} {digest}" for name, digest in image.digests)
    top = Package(
        "SPDXRef-image", image.name, SpdxNoAssertion(), version=image.version, files_analyzed=False,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, dict(image.digests)["disk.raw"])],
        summary=image.summary, comment=f"sha256 of its files: {files}",
        primary_package_purpose=PackagePurpose.OPERATING_SYSTEM,
    )  # fmt: skip
    debian = {p.name: _debian(p, inventory.suite) for p in inventory.debian}
    inside = [_debian(p, inventory.suite) for p in inventory.debian]
    relations = [Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, top.spdx_id)]
    for found in inventory.python:
        made = _python(found)
        inside.append(made)
        if found.package in debian:
            owner = debian[found.package].spdx_id
            relations.append(Relationship(owner, RelationshipType.CONTAINS, made.spdx_id))
    relations += [Relationship(top.spdx_id, RelationshipType.CONTAINS, p.spdx_id) for p in inside]
    return Document(head, [top, *inside], relationships=relations,
                    extracted_licensing_info=_extracted(inventory))  # fmt: skip


def text(image: Manifest, inventory: Inventory) -> str:
    """The document as JSON, the same bytes each time."""
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter

    converter: Any = DocumentConverter
    told = converter().convert(document(image, inventory))
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def _package(name: str, identifier: str, licence: str, link: str, **more: Any) -> Package:
    from spdx_tools.spdx.model import (
        ExternalPackageRef,
        ExternalPackageRefCategory,
        Package,
        SpdxNoAssertion,
    )

    declared = licences.licensing().parse(licence) if licence else SpdxNoAssertion()
    reference = ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", link)
    return Package(
        "SPDXRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", identifier), name, SpdxNoAssertion(),
        files_analyzed=False, license_concluded=SpdxNoAssertion(), license_declared=declared,
        copyright_text=SpdxNoAssertion(), external_references=[reference], **more,
    )  # fmt: skip


def _debian(p: Installed, suite: str) -> Package:
    from spdx_tools.spdx.model import Actor, ActorType

    name, address = re.fullmatch(r"(.*?)\s*(?:<([^>]*)>)?", p.maintainer or "Debian").groups()  # type: ignore[union-attr]
    said = ""
    if not p.licences:
        where = f" and points to {', '.join(p.mentions)}" if p.mentions else ""
        said = f"its copyright file is not machine-readable{where}"
    return _package(
        p.name, f"deb-{p.name.replace('+', 'plus')}-{p.architecture}", licences.expression(p.licences),
        purl.debian(p, suite), version=p.version, supplier=Actor(ActorType.ORGANIZATION, name, address),
        source_info=f"built from the Debian source package {p.source[0]} {p.source[1]}",
        homepage=p.homepage or None, license_comment=said or None,
    )  # fmt: skip


def _python(p: Distribution) -> Package:
    return _package(
        p.name, f"python{p.path}", licences.expression([p.licence]), purl.python(p),
        version=p.version, source_info=f"its metadata is {p.path}",
        homepage=p.homepage if re.match(r"https?://", p.homepage) else None,
    )  # fmt: skip


def _extracted(inventory: Inventory) -> list[Any]:
    """What each LicenseRef stands for: the words, and where the whole text is."""
    from spdx_tools.spdx.model import ExtractedLicensingInfo

    places: dict[str, set[str]] = {}
    for p in inventory.debian:
        for found in licences.references(licences.expression(p.licences)):
            places.setdefault(found, set()).add(f"/usr/share/doc/{p.name}/copyright")
    for d in inventory.python:
        for found in licences.references(licences.expression([d.licence])):
            places.setdefault(found, set()).add(d.path)
    return [
        ExtractedLicensingInfo(
            found, f"The text is in the image: {', '.join(sorted(places[found]))}"
        )
        for found in sorted(places)
    ]
