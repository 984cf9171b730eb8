"""Package URLs: the names by which vulnerability lists know a package. Source: the purl specification, deb and pypi."""

from __future__ import annotations

from builder.images.sbom.inventory import Distribution, Installed


def debian(p: Installed, suite: str) -> str:
    """With the source package as `upstream`, as scanners look it up: security advisories name sources."""
    from packageurl import PackageURL

    name, version = p.source
    more = {"arch": p.architecture}
    if suite:
        more["distro"] = suite
    if name != p.name or version != p.version:
        more["upstream"] = name if version == p.version else f"{name}@{version}"
    return PackageURL("deb", "debian", p.name, p.version, more).to_string()


def python(p: Distribution) -> str:
    from packageurl import PackageURL

    return PackageURL("pypi", None, p.name, p.version).to_string()
