"""What a build installs from is exactly what its lock names, byte by byte; apt itself is the vm tier's to ask."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from dataclasses import replace

import pytest

from builder.errors import CommandFailed, WorkFailed
from builder.language.flat import Archive
from builder.packages import apt, archive
from tests.invented import deb, locked


@pytest.fixture
def cache(tmp_path):
    """A cache of two packages, and an empty folder to offer them in."""
    found, into = tmp_path / "cache", tmp_path / "into"
    found.mkdir()
    into.mkdir()
    for package in (locked("dash", "1:2.0"), locked("kmod")):
        (found / archive.file_name(package)).write_bytes(deb(package.name, package.version))
    return found, into


def test_an_epochs_colon_is_escaped_as_apt_does():
    assert archive.file_name(locked("dash", "1:2.0")) == "dash_1%3a2.0_all.deb"


def test_the_archive_holds_exactly_the_locked_packages(cache, golden):
    folder, into = cache
    archive.archive([locked("kmod"), locked("dash", "1:2.0")], "bookworm", folder, into)
    assert sorted(p.name for p in into.iterdir()) == [
        "Packages", "Release", "dash_1%3a2.0_all.deb", "kmod_1.0_all.deb",
    ]  # fmt: skip
    golden("archive.txt", (into / "Packages").read_text() + "==\n" + (into / "Release").read_text())
    digest = hashlib.sha256((into / "Packages").read_bytes()).hexdigest()
    assert digest in (into / "Release").read_text()


def test_links_not_copies(cache):
    folder, into = cache
    archive.archive([locked("kmod")], "bookworm", folder, into)
    assert (into / "kmod_1.0_all.deb").samefile(folder / "kmod_1.0_all.deb")


@pytest.mark.parametrize(
    ("why", "package"),
    [
        ("not there", locked("curl")),
        ("other bytes", replace(locked("kmod"), sha256="0" * 64)),
        ("another length", replace(locked("kmod"), size=7)),
    ],
)
def test_what_is_not_as_locked_is_refused(why, package, cache):
    folder, into = cache
    with pytest.raises(WorkFailed, match="is missing from the cache or is not what its lock says"):
        archive.archive([package], "bookworm", folder, into)


def test_the_control_file_of_each_packing(tmp_path):
    path = tmp_path / "a.deb"
    path.write_bytes(deb("kmod"))
    plain = archive.control_of(path)
    assert plain.startswith("Package: kmod\nVersion: 1.0\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("control")
        entry.size = len(plain)
        tar.addfile(entry, io.BytesIO(plain.encode()))
    data = lzma.compress(packed.getvalue())
    member = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"control.tar.xz", 0, 0, 0, b"100644", len(data))
    path.write_bytes(b"!<arch>\n" + member + data)
    assert archive.control_of(path) == plain


def test_what_is_no_package_is_refused(tmp_path):
    for data in (b"", b"!<arch>\n"):
        (tmp_path / "a.deb").write_bytes(data)
        with pytest.raises(WorkFailed, match=r"a\.deb is not a Debian package"):
            archive.control_of(tmp_path / "a.deb")


@pytest.mark.parametrize(
    ("why", "said", "what"),
    [
        ("silence", "Err:1 http://mirror.invalid bookworm InRelease\n  Could not resolve 'mirror.invalid'",
         "the mirror in this machine's apt configuration does not answer"),
        ("a signature", "W: GPG error: NO_PUBKEY 0123",
         "the mirror's files do not carry Debian's signature, or not the signed hashes"),
        ("changed on the way", "E: Hash Sum mismatch",
         "the mirror's files do not carry Debian's signature, or not the signed hashes"),
        ("a snapshot", "E: Release file for http://m.invalid/dists/x is expired (invalid since 9d)",
         "the mirror has a Release file that has run out (Valid-Until)"),
        ("a full disk", "E: write (28: No space left on device)", "the disk is full"),
    ],
)  # fmt: skip
def test_apts_failure_in_the_users_terms(why, said, what):
    assert apt.unreachable(CommandFailed(["apt-get"], 100, said)).what == what, why


VENDOR = Archive(
    "vendor",
    "http://v.invalid/deb/",
    "stable",
    ("main",),
    b"key",
    False,
    "recipe.yaml:7: sources[0]",
)


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("E: The repository 'http://v.invalid/deb stable InRelease' is not signed.",
         "does not carry the signature of its key, or not the signed hashes", "gpg --show-keys FILE"),
        ("E: Failed to fetch http://v.invalid/deb/dists/stable/Packages  Hash Sum mismatch",
         "does not carry the signature of its key, or not the signed hashes", "gpg --show-keys FILE"),
        ("E: Release file for http://v.invalid/deb/dists/stable/InRelease is expired (invalid since 9d)",
         "has a Release file that has run out (Valid-Until)", "say snapshot: true"),
        ("E: The repository 'http://v.invalid/deb stable Release' does not have a Release file.",
         "has no suite stable", "check uri and suite"),
        ("E: Failed to fetch http://v.invalid/deb/dists/stable/InRelease  Could not connect",
         "does not answer as an archive does", "check its uri"),
    ],
)  # fmt: skip
def test_an_archive_that_is_to_blame_is_named_with_its_line(said, what, hint):
    error = apt.unreachable(CommandFailed(["apt-get"], 100, said), (VENDOR,))
    assert error.what == f"recipe.yaml:7: sources[0]: the archive 'vendor' {what}"
    assert hint in error.hint
    other = replace(VENDOR, uri="http://other.invalid/deb")
    assert "the mirror" in apt.unreachable(CommandFailed(["apt-get"], 100, said), (other,)).what


def test_an_archive_as_apt_reads_it():
    assert VENDOR.stanza("/k") == (
        "Types: deb\nURIs: http://v.invalid/deb/\nSuites: stable\nComponents: main\nSigned-By: /k/vendor.gpg\n"
    )
    flat = replace(VENDOR, suite="./", components=(), key=b"-----BEGIN PGP", snapshot=True)
    assert flat.stanza("/k") == (
        "Types: deb\nURIs: http://v.invalid/deb/\nSuites: ./\nCheck-Valid-Until: no\nSigned-By: /k/vendor.asc\n"
    )


def test_apt_over_more_archives_has_a_state_of_its_own_that_begins_as_ours(tmp_path):
    ours = apt.Apt(tmp_path / "apt", tmp_path / "packages", "Types: deb\n", tmp_path / "log")
    (ours.state / "lists").mkdir(parents=True)
    (ours.state / "lists/a_Release").write_text("Date: x\n")
    (ours.state / "lists/lock").write_text("")
    assert ours.over(()) is ours
    over = ours.over((VENDOR,))
    assert over.state != ours.state and over.sources.startswith("Types: deb\n\n")
    assert f"Signed-By: {over.state}/keys/vendor.gpg" in over.sources
    assert [p.name for p in (over.state / "lists").iterdir()] == ["a_Release"]
    assert (
        over == ours.over((VENDOR,)) and over.state != ours.over((replace(VENDOR, key=b"b"),)).state
    )
    assert over.gate == ours.state / "phx.lock", "the package cache is one"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("E: Unable to locate package ngnix", "ngnix"),
        ("E: Version '7' for 'curl' was not found", "curl"),
        ("E: Version '7' for 'curl:amd64' was not found", "curl"),
        ("E: Package 'foo' has no installation candidate", "foo"),
        ("E: Package foo has no installation candidate", "foo"),
        ("E: Couldn't find any package by regex 'foo.*'", "foo.*"),
    ],
)
def test_the_absent_package_is_found_in_apts_words(said, name):
    found = apt._ABSENT.search(said)
    assert found is not None and next(g for g in found.groups() if g) == name
