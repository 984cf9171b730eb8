"""What a tree holds is read from its own lists; the documents are valid, the same each time, and claim no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.images.sbom import cyclonedx, inventory, licences, provenance, purl, spdx
from builder.images.sbom.look import look, read_copyright
from builder.language.flat import Fetched
from builder.steps import LockedWheel, Pip, Write
from tests.invented import IMAGE
from tests.test_plan import FACTS, drawn

STATUS = """\
Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+b1
Homepage: https://www.gnu.org/software/libc/libc.html

Package: python3-six
Status: install ok installed
Maintainer: Somebody
Architecture: all
Version: 1.16.0-4

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 1990, Somebody
License: LGPL-2.1+

Files: debian/*
Copyright: 2000, Somebody
License: GPL-2 with Linux-syscall-note exception, and Expat or strange-one
 The whole text.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/python3-six.list": "/.\n/usr/lib/python3/dist-packages/six-1.16.0.egg-info\n",
        "usr/share/doc/libc6/copyright": DEP5,
        "usr/share/doc/python3-six/copyright": "See /usr/share/common-licenses/GPL-2.\n",
        "usr/lib/os-release": 'VERSION_CODENAME="bookworm"\n',
        "usr/lib/python3/dist-packages/six-1.16.0.egg-info": "Name: six\nVersion: 1.16.0\nLicense: MIT\n",
        "opt/app/lib/python3.11/site-packages/Odd_One-2.0.dist-info/METADATA":
            "Name: Odd_One\nVersion: 2.0\nLicense-Expression: Apache-2.0 OR MIT\nHome-page: https://odd.example\n",
        "opt/app/lib/python3.11/site-packages/broken-1.dist-info/METADATA": "Nothing: here\n",
        "opt/app/lib/python3.11/site-packages/empty-1.dist-info/RECORD": "",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "opt/link.dist-info").symlink_to("/nonexistent")
    return tmp_path


def test_a_tree_is_looked_through(tree: Path) -> None:
    found = look(tree)
    assert found.suite == "bookworm"
    libc, six = found.debian
    assert (libc.name, libc.version, libc.source) == ("libc6", "2.36-9+b1", ("glibc", "2.36-9"))
    assert "LGPL-2.1+" in libc.licences and libc.mentions == ()
    assert (six.source, six.licences, six.mentions) == (("python3-six", "1.16.0-4"), (), ("GPL-2",))
    assert [(d.name, d.version, d.licence, d.package) for d in found.python] == [
        ("Odd_One", "2.0", "Apache-2.0 OR MIT", ""), ("six", "1.16.0", "MIT", "python3-six"),
    ]  # fmt: skip
    assert inventory.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"debian": [1], "python": [], "suite": ""}'])
def test_what_is_no_inventory_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        inventory.from_json(text)


def test_spdx_is_valid_by_its_own_library(tree: Path) -> None:
    found = look(tree)
    assert validate_full_spdx_document(spdx.document(IMAGE, found)) == []
    told = json.loads(spdx.text(IMAGE, found))
    assert spdx.text(IMAGE, found) == json.dumps(told, indent=1, sort_keys=True) + "\n"
    packages = {p["name"]: p for p in told["packages"]}
    assert set(packages) == {"worker", "libc6", "python3-six", "six", "Odd_One"}
    libc = packages["libc6"]
    assert libc["licenseDeclared"] == (
        "GPL-2.0-only WITH Linux-syscall-note AND LGPL-2.1-or-later AND (MIT OR LicenseRef-strange-one)"
    )
    assert libc["licenseConcluded"] == "NOASSERTION"
    assert libc["sourceInfo"] == "built from the Debian source package glibc 2.36-9"
    assert packages["python3-six"]["licenseDeclared"] == "NOASSERTION"
    assert packages["python3-six"]["licenseComments"].endswith("and points to GPL-2")
    assert told["creationInfo"]["created"] == "2023-11-14T22:13:20Z", "the epoch, not now"
    assert [x["licenseId"] for x in told["hasExtractedLicensingInfos"]] == [
        "LicenseRef-strange-one"
    ]


def test_cyclonedx_has_the_same_packages(tree: Path) -> None:
    found = look(tree)
    told = json.loads(cyclonedx.text(IMAGE, found))
    assert cyclonedx.text(IMAGE, found) == json.dumps(told, indent=1, sort_keys=True) + "\n"
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert {c["name"] for c in told["components"]} == {"libc6", "python3-six", "six", "Odd_One"}
    assert told["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_a_package_url_names_the_source_that_advisories_name(tree: Path) -> None:
    libc, six = look(tree).debian
    assert purl.debian(libc, "bookworm") == (
        "pkg:deb/debian/libc6@2.36-9%2Bb1?arch=amd64&distro=bookworm&upstream=glibc%402.36-9"
    )
    assert purl.debian(six, "") == "pkg:deb/debian/python3-six@1.16.0-4?arch=all"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["GPL-2+"], "GPL-2.0-or-later"),
        (["GPL-3", "Expat"], "GPL-3.0-only AND MIT"),
        (["GPL-2+ or Artistic"], "GPL-2.0-or-later OR Artistic-1.0-Perl"),
        (["GPL-2+ or Artistic", "ISC"], "(GPL-2.0-or-later OR Artistic-1.0-Perl) AND ISC"),
        (["Expat or GPL-1+, and BSD-3-clause"], "BSD-3-Clause AND (MIT OR GPL-1.0-or-later)"),
        (["GPL-3+ with Bison exception"], "GPL-3.0-or-later WITH Bison-exception-2.2"),
        (
            ["GPL-2+ with OpenSSL exception"],
            "LicenseRef-GPL-2-or-later-with-OpenSSL-exception",
        ),
        (["GFDL-NIV-1.3+"], "GFDL-1.3-no-invariants-or-later"),
        (["public-domain", "??"], "LicenseRef-public-domain AND LicenseRef-unnamed"),
        (["GPL"], "LicenseRef-GPL"),
        ([], ""),
        ([""], ""),
    ],
)
def test_debians_words_for_licences(words: list[str], told: str) -> None:
    assert licences.expression(words) == told


def test_a_copyright_file_that_is_broken_claims_nothing() -> None:
    assert read_copyright("Format: x\nFiles: *\nLicense") == ((), ())
    assert read_copyright("") == ((), ())


def test_the_provenance_names_every_input() -> None:
    made = drawn()
    text = provenance.statement(made, {"disk.raw": "aa" * 32}, {"kernel": "6.1"})
    assert text == provenance.statement(made, {"disk.raw": "aa" * 32}, {"kernel": "6.1"})
    told = json.loads(text)
    definition = told["predicate"]["buildDefinition"]
    locked = [p for part in FACTS.packages for p in part]
    assert len(definition["resolvedDependencies"]) == len({p.name for p in locked})
    assert {d["digest"]["sha256"] for d in definition["resolvedDependencies"]} == {
        p.sha256 for p in locked
    }
    assert [x["id"] for x in definition["internalParameters"]["layers"]] == list(made.layers())
    assert told["subject"] == [{"name": "disk.raw", "digest": {"sha256": "aa" * 32}}]


def test_the_provenance_names_wheels_and_files_without_passwords() -> None:
    wheel = LockedWheel("six", "1.16.0", "six-1.16.0-py3-none-any.whl", "bb" * 32)
    installer = LockedWheel("pip", "24.0", "pip-24.0-py3-none-any.whl", "dd" * 32)
    file = Fetched("/x", 0o644, "root", "cc" * 32, "https://me:word@example.org/x", "recipe.yaml:1")
    made = drawn()
    steps = (*made.steps, Pip((), installer, (wheel,)), Write((file,)))
    told = json.loads(provenance.statement(replace(made, steps=steps), {}, {}))
    inputs = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    uris = {one["digest"]["sha256"]: one["uri"] for one in inputs}
    assert uris["bb" * 32] == "pkg:pypi/six@1.16.0?file_name=six-1.16.0-py3-none-any.whl"
    assert "dd" * 32 in uris
    assert uris["cc" * 32] == "https://example.org/x"


def test_the_provenance_is_a_statement_by_in_totos_own_check() -> None:
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    told = json.loads(provenance.statement(drawn(), {"disk.raw": "aa" * 32}, {}))
    Statement.copy_from_pb(ParseDict(told, Message())).validate()
    assert ParseDict(told["predicate"], Provenance()).run_details.builder.id
