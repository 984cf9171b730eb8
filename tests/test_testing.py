"""Tests of appliances: how pytest is asked, how its answer is read, what is remembered, when an image may come in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builder.errors import InputError, WorkFailed
from builder.language.entries import Kernel
from builder.language.flat import CheckFile, Flat, Part, Units
from builder.testing import gate, record, session, static
from builder.testing.session import Case, Outcome
from cluster import trial
from tests.invented import IMAGE

PART = Part("web", "web/recipe.yaml", (), (), (), (), Units((), (), ()), ())
FLAT = Flat(
    "web", "1", "for tests", "bookworm", Kernel(package="linux"), 1 << 30, (PART,), (("port", 80),), "",
    tests=(
        CheckFile("base", "/lib/base", "tests/test_base.py", "a" * 64),
        CheckFile("web", "/lib/web", "tests/test_web.py", "b" * 64),
    ),
)  # fmt: skip
NOW = "2026-11-25T08:00:00+00:00"
SAID = 'some words\nphx: {"boot": 2, "peer": true}\nF.s\n'
JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="web static" tests="3">
<testcase classname="web.tests.test_web" name="test_a" time="0.5"/>
<testcase classname="web.tests.test_web" name="test_b" time="0.1"><failure message="no">E  no\nmore</failure></testcase>
<testcase classname="web.tests.test_web" name="test_c" time="0"><skipped message="later"/></testcase>
</testsuite></testsuites>"""
GOOD = Outcome("static", (Case("test_a", 0.1, "passed"),))
BAD = Outcome("static", (Case("test_a", 0.1, "passed"), Case("test_b", 0.1, "failed", "E  no")))


def test_pytest_runs_every_file_of_the_chain_and_no_plugin_of_the_machine():
    argv = session.argv(FLAT, "/out.xml", "static")
    assert argv[-2:] == ["/lib/base/tests/test_base.py", "/lib/web/tests/test_web.py"]
    assert argv[argv.index("--rootdir") + 1] == "/lib"
    env = session.environment({"boot": False}, "/tmp/x")
    assert env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] == "1"
    assert json.loads(env["PHX_TEST"]) == {"boot": False}


def test_what_pytest_found_is_read():
    found = session.read("static", SAID, JUNIT)
    assert [(c.name, c.outcome, c.text) for c in found.cases] == [
        ("web.tests.test_web.test_a", "passed", ""),
        ("web.tests.test_web.test_b", "failed", "E  no\nmore"),
        ("web.tests.test_web.test_c", "skipped", "later"),
    ]
    assert (found.boot, found.peer, found.told) == (2, True, "1 of 3 failed")
    assert session.failures([found]) == "FAILED web.tests.test_web.test_b\n    E  no\n    more"


@pytest.mark.parametrize("junit", ["", "<broken", "<testsuites/>"])
def test_a_pytest_that_did_not_run_is_no_success(junit):
    with pytest.raises(WorkFailed, match="pytest did not run: INTERNALERROR"):
        session.read("static", "\nINTERNALERROR\n", junit)


def test_many_runs_are_one_junit_file():
    failed = session.single("boot", "web", Case("web.boot", 1.0, "failed", "it hung\nits console"))
    text = session.junit([session.read("static", SAID, JUNIT), failed, Outcome("boot", ())])
    suites = ElementTree.fromstring(text)
    assert [s.get("name") for s in suites] == ["web static", "web boot"]
    assert suites.find(".//failure[@message='it hung']").text == "it hung\nits console"


def test_other_tests_have_another_digest_and_another_folder_has_not():
    moved = replace(FLAT, tests=tuple(replace(t, folder="/x") for t in FLAT.tests))
    other = replace(FLAT, tests=FLAT.tests[:1])
    assert session.digest(FLAT) == session.digest(moved) != session.digest(other)
    assert session.digest(replace(FLAT, tests=())) == ""


def test_what_is_remembered_of_other_tests_goes(tmp_path):
    record.note(tmp_path, "static", record.Ran("one", 2, 0, NOW))
    record.note(tmp_path, "boot", record.Ran("one", 1, 1, NOW))
    assert record.shown(record.read(tmp_path)) == "static, boot failed"
    record.note(tmp_path, "static", record.Ran("two", 2, 0, NOW))
    assert record.read(tmp_path) == {"static": record.Ran("two", 2, 0, NOW)}
    assert [p.name for p in tmp_path.iterdir()] == [record.FILE]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"static": {"odd": 1}}', '{"static": 1}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / record.FILE).write_text(text)
    assert record.read(tmp_path) == {}
    assert record.shown({}) == "-"


class Store:
    """Layers of which all or none are there."""

    def __init__(self, there: bool) -> None:
        self.there = there

    def has(self, layer: str) -> bool:
        return self.there


@pytest.fixture
def tests_say(monkeypatch):
    """tests_say(outcome) makes static tests end so; how often they ran is its list."""
    ran: list[str] = []

    def say(outcome):
        def run(flat, *_):
            ran.append(flat.name)
            return outcome

        monkeypatch.setattr(static, "run", run)
        return ran

    return say


def guarded(folder, flat=FLAT, proven=None):
    return gate.guarded(flat, ("l",), Store(True), folder, lambda: IMAGE, print, proven)


def test_an_image_comes_in_with_what_its_tests_said(tmp_path, tests_say):
    tests_say(GOOD)
    assert guarded(tmp_path) is IMAGE
    assert record.read(tmp_path)["static"].passed == 1


def test_an_image_whose_tests_fail_does_not_come_in(tmp_path, tests_say):
    tests_say(BAD)
    with pytest.raises(
        WorkFailed, match="web: 1 of 2 failed of its static tests:\nFAILED test_b"
    ) as e:
        guarded(tmp_path)
    assert "the name web stays with the image that it had" in e.value.hint


def test_tests_that_ran_already_do_not_run_again(tmp_path, tests_say):
    ran = tests_say(BAD)
    guarded(tmp_path, proven=GOOD)
    guarded(tmp_path / "none", replace(FLAT, tests=()))
    assert ran == []


def again(folder, flat=FLAT, there=True):
    words: list[str] = []
    gate.again(flat, ("l",), Store(there), folder, words.append, None)
    return words


def test_an_image_that_is_there_is_tested_when_its_tests_changed(tmp_path, tests_say):
    ran = tests_say(GOOD)
    again(tmp_path)
    again(tmp_path)
    assert ran == ["web"], "the second time the answer is known"
    again(tmp_path, replace(FLAT, tests=FLAT.tests[:1]))
    assert ran == ["web", "web"]


def test_tests_that_failed_fail_until_they_hold(tmp_path, tests_say):
    tests_say(BAD)
    for _ in range(2):
        with pytest.raises(WorkFailed):
            again(tmp_path)
        assert record.shown(record.read(tmp_path)) == "static failed"
    tests_say(GOOD)
    again(tmp_path)
    assert record.shown(record.read(tmp_path)) == "static"


def test_without_layers_an_image_cannot_be_tested_and_that_is_said(tmp_path, tests_say):
    ran = tests_say(GOOD)
    assert again(tmp_path, there=False) == [
        "web: its tests changed and its layers are gone: phx test web runs them"
    ]
    assert ran == [] and record.read(tmp_path) == {}


@pytest.mark.parametrize("peer", [False, True])
def test_a_trial_without_a_cluster_file_has_one_node_and_a_peer_if_wanted(peer):
    spec, document = trial.described(FLAT, IMAGE, peer, "test-7")
    names = ["appliance-1", "peer-1"] if peer else ["appliance-1"]
    assert [node for node, _ in spec.names] == names
    assert {role.image for role in spec.roles.values()} == {IMAGE.id}
    assert document.data["cluster"] == spec.cluster == "test-7"


CLUSTER = """\
cluster: web-test
roles:
  web: {image: "web:1", memory: 256M, cpu: {guarantee: 1, limit: 1}, network: {guarantee: 1Mbit, limit: 1Mbit}}
  db: {image: website, memory: 256M, cpu: {guarantee: 1, limit: 1}, network: {guarantee: 1Mbit, limit: 1Mbit}}
"""


def test_in_a_recipes_own_cluster_its_name_means_the_image_under_test(tmp_path):
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    flat = replace(FLAT, test_cluster=str(tmp_path / "cluster.yaml"))
    spec, _ = trial.described(flat, IMAGE, False, "test-7")
    assert (spec.cluster, spec.roles["web"].image) == ("test-7", IMAGE.id)
    assert spec.roles["db"].image == "website"
    (tmp_path / "cluster.yaml").write_text(CLUSTER.replace("256M", "256"))
    with pytest.raises(InputError, match=r"cluster\.yaml:3"):
        trial.described(flat, IMAGE, False, "test-7")


def test_the_paths_of_a_recipe_given_by_a_relative_path_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat = replace(FLAT, tests=(CheckFile("web", "web", "tests/test_web.py", ""),))
    assert session.argv(flat, "o", "static")[-1] == str(tmp_path / "web/tests/test_web.py")
    assert Path(session.argv(flat, "o", "static")[-1]).is_absolute()
