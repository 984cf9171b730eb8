"""An image's inventory as a CycloneDX 1.6 document in JSON."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from typing import TYPE_CHECKING

from builder.images.manifest import Manifest
from builder.images.sbom import licences, purl
from builder.images.sbom.inventory import Inventory

if TYPE_CHECKING:
    from cyclonedx.model import ExternalReference
    from cyclonedx.model.component import Component


def text(image: Manifest, inventory: Inventory) -> str:
    """The document, the same bytes each time: its serial number follows from the image's id, its time is the epoch."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.output.json import JsonV1Dot6

    top = Component(
        name=image.name, version=image.version, type=ComponentType.OPERATING_SYSTEM, bom_ref="image",
        description=image.summary,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=dict(image.digests)["disk.raw"])],
        properties=[Property(name=f"philoxenia:sha256:{n}", value=d) for n, d in image.digests],
    )  # fmt: skip
    inside = _components(inventory)
    bom = Bom(
        components=inside, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"philoxenia:{image.id}:cyclonedx"),
        dependencies=[Dependency(top.bom_ref, [Dependency(c.bom_ref) for c in inside])],
        metadata=BomMetaData(
            component=top, timestamp=datetime.datetime.fromtimestamp(image.epoch, datetime.UTC),
        ),
    )  # fmt: skip
    told = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def _components(inventory: Inventory) -> list[Component]:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from cyclonedx.model.contact import OrganizationalEntity
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    found = []
    for p in inventory.debian:
        link = purl.debian(p, inventory.suite)
        about = {"source": p.source[0], "source-version": p.source[1]}
        if not p.licences:
            about["licences"] = "the copyright file is not machine-readable"
        said = licences.expression(p.licences)
        found.append(
            Component(
                name=p.name, version=p.version, bom_ref=link, purl=PackageURL.from_string(link),
                supplier=OrganizationalEntity(name=p.maintainer) if p.maintainer else None,
                licenses=[LicenseExpression(said)] if said else [],
                external_references=_website(p.homepage),
                properties=[Property(name=f"philoxenia:debian:{k}", value=v) for k, v in about.items()],
            )
        )  # fmt: skip
    for d in inventory.python:
        link, said = purl.python(d), licences.expression([d.licence])
        place = {"path": d.path, "debian-package": d.package}
        found.append(
            Component(
                name=d.name, version=d.version, bom_ref=f"{link}#{d.path}", purl=PackageURL.from_string(link),
                licenses=[LicenseExpression(said)] if said else [],
                external_references=_website(d.homepage),
                properties=[Property(name=f"philoxenia:python:{k}", value=v) for k, v in place.items() if v],
            )
        )  # fmt: skip
    return found


def _website(address: str) -> list[ExternalReference]:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri

    if not re.match(r"https?://\S+$", address):
        return []
    return [ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(address))]
