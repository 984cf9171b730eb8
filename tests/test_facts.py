"""Of a machine's apt configuration, the sources of the plan's suite are taken; all hosts here are invented."""

from __future__ import annotations

import pytest

from builder.errors import EnvironmentLacks, explain
from builder.packages import facts


def stanza(uri, suites, key=facts.KEYRING):
    return f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {key}"


M = "http://mirror.invalid/debian"


def told(suites, uris=M, types="deb", components="main"):
    """A stanza as a file of apt's has it."""
    return f"Types: {types}\nURIs: {uris}\nSuites: {suites}\nComponents: {components}\n"


DEB822 = [
    ("as Debian writes it", told("bookworm bookworm-updates"),
     [stanza(M, "bookworm bookworm-updates")]),
    ("only the suites that serve ours", told("bookworm bookworm-backports trixie", M, "deb deb-src", "main contrib"),
     [stanza(M, "bookworm")]),
    ("security", f"Types: deb\nURIs: {M}-security\nSuites: bookworm-security\nComponents: main\n",
     [stanza(f"{M}-security", "bookworm-security")]),
    ("a key of its own", f"Types: deb\nURIs: {M}\nSuites: bookworm\nComponents: main\nSigned-By: /etc/k.gpg\n",
     [stanza(M, "bookworm", "/etc/k.gpg")]),
    ("two mirrors", told("bookworm", f"{M} http://second.invalid/debian"),
     [stanza(f"{M} http://second.invalid/debian", "bookworm")]),
    ("capitals do not matter in a field's name", f"types: deb\nuris: {M}\nsuites: bookworm\ncomponents: main\n",
     [stanza(M, "bookworm")]),
    ("a field may go on in the next line",
     f"Types: deb\nURIs: {M}\nSuites: bookworm\n bookworm-updates\nComponents: main\n",
     [stanza(M, "bookworm bookworm-updates")]),
    ("comments",
     f"# Types: deb-src\nTypes: deb\n# more\nURIs: {M}\nSuites: bookworm\nComponents: main\n", [stanza(M, "bookworm")]),
    ("two stanzas, one of another vendor",
     told("bookworm") + "\n" + told("stable", "http://vendor.invalid/deb"),
     [stanza(M, "bookworm")]),
    ("a vendor without main", told("bookworm", "http://vendor.invalid/linux", components="stable"), []),
    ("a flat archive", "Types: deb\nURIs: http://vendor.invalid/flat\nSuites: ./\n", []),
    ("a snapshot, whose Release has run out", told("bookworm") + "Check-Valid-Until: no\n",
     [stanza(M, "bookworm") + "\nCheck-Valid-Until: no"]),
    ("disabled", f"Enabled: no\nTypes: deb\nURIs: {M}\nSuites: bookworm\nComponents: main\n", []),
    ("sources only", f"Types: deb-src\nURIs: {M}\nSuites: bookworm\nComponents: main\n", []),
    ("another suite", told("trixie"), []),
    ("nothing", "", []),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text", "found"), DEB822, ids=[c[0] for c in DEB822])
def test_deb822(why, text, found):
    assert facts.stanzas_of_deb822([text], "bookworm") == found, why


ONE_LINE = [
    ("as Debian wrote it", f"deb {M} bookworm main contrib\n", [stanza(M, "bookworm")]),
    ("updates and security", f"deb {M} bookworm-updates main\ndeb {M}-security bookworm-security main\n",
     [stanza(M, "bookworm-updates"), stanza(f"{M}-security", "bookworm-security")]),
    ("options", f"deb [arch=amd64 signed-by=/etc/k.gpg] {M} bookworm main\n", [stanza(M, "bookworm", "/etc/k.gpg")]),
    ("a snapshot", f"deb [check-valid-until=no] {M}/20250520T000000Z bookworm main\n",
     [stanza(f"{M}/20250520T000000Z", "bookworm") + "\nCheck-Valid-Until: no"]),
    ("a comment", f"# deb {M} bookworm main\n", []),
    ("sources only", f"deb-src {M} bookworm main\n", []),
    ("another vendor's", "deb http://vendor.invalid/deb bookworm stable\n", []),
    ("another suite", f"deb {M} trixie main\n", []),
    ("blanks and tabs", f"  deb\t{M}   bookworm\tmain\n", [stanza(M, "bookworm")]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text", "found"), ONE_LINE, ids=[c[0] for c in ONE_LINE])
def test_one_line(why, text, found):
    assert facts.stanzas_of_lists([text], "bookworm") == found, why


def test_both_forms_say_the_same():
    new = facts.stanzas_of_deb822([DEB822[0][1].replace(" bookworm-updates", "")], "bookworm")
    assert new == facts.stanzas_of_lists([f"deb {M} bookworm main"], "bookworm")


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_all_files_are_read_each_source_kept_once(etc):
    (etc / "sources.list").write_text(f"deb {M} bookworm main\n")
    (etc / "sources.list.d/b.list").write_text(
        f"deb {M} bookworm main\ndeb {M} bookworm-updates main\n"
    )
    (etc / "sources.list.d/debian.sources").write_text(DEB822[2][1])
    (etc / "sources.list.d/vendor.sources").write_text(DEB822[9][1])
    (etc / "sources.list.d/ignored.save").write_text(
        "deb http://old.invalid/debian bookworm main\n"
    )
    wanted = [
        stanza(M, "bookworm"),
        stanza(M, "bookworm-updates"),
        stanza(f"{M}-security", "bookworm-security"),
    ]
    assert facts.sources("bookworm", etc) == "\n\n".join(wanted) + "\n"


def test_what_is_gathered_reads_back_as_itself(etc):
    (etc / "sources.list").write_text(f"deb {M} bookworm main\n")
    once = facts.sources("bookworm", etc)
    assert "\n\n".join(facts.stanzas_of_deb822([once], "bookworm")) + "\n" == once


@pytest.mark.parametrize("text", ["", f"deb {M} trixie main\n"])
def test_no_mirror_says_what_to_write(etc, text):
    (etc / "sources.list").write_text(text)
    with pytest.raises(EnvironmentLacks) as caught:
        facts.sources("bookworm", etc)
    assert explain(caught.value).replace(str(etc), "ETC") == (
        "error: this machine's apt knows no mirror of Debian bookworm\n"
        "  hint: add one to ETC/sources.list, as in: deb http://MIRROR/debian bookworm main"
    )
