"""Tests of appliances for real: on trees that are built, on guests that are booted; and nothing of it is left."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import pytest

from tests.vm.conftest import Phx

pytestmark = pytest.mark.vm

RECIPE = """from: base
files:
  - {path: /etc/answer, content: "{{ answer }}\\n"}
parameters:
  answer: {type: integer, default: 42}
tests:
  files: [tests/test_it.py]
"""
STATIC = """
import os, socket, tempfile
import pytest

def test_the_answer(host, parameters):
    assert host.file("/etc/answer").content_string == f"{parameters['answer']}\\n"
    assert parameters["answer"] > 6

@pytest.mark.parametrize("folder", ["/etc", "/tmp", "/run", "/dev/shm", os.path.dirname(__file__)])
def test_the_machine_is_read_only(folder):
    with pytest.raises(OSError):
        open(f"{folder}/phx-written-by-a-test", "w")

def test_what_is_temporary_has_a_place(tmp_path):
    (tmp_path / "file").write_text("a")
    tempfile.NamedTemporaryFile().close()

def test_there_is_no_network():
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 22), 2)

def test_the_tree_can_be_changed_and_is_not(host):
    assert host.run("test -e /etc/changed").rc == 1
    host.check_output("echo > /etc/changed; mktemp; getent passwd root")
"""


@pytest.fixture
def tested(library, tmp_path) -> Phx:
    """A phx whose library has the recipe `answer` with STATIC."""
    phx = library(answer=RECIPE)
    tests = tmp_path / "recipes/answer/tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(STATIC)
    return phx


def names(phx: Phx) -> list[tuple[str, str]]:
    return [(m["name"], m["id"]) for m in phx.json("image", "ls")]  # type: ignore[attr-defined]


def test_an_image_that_fails_its_tests_does_not_come_in(tested, tmp_path):
    before = names(tested)
    refused = tested.run("build", "answer", "--set", "answer=6", status=1).stderr
    assert "answer: 1 of 16 failed of its static tests:" in refused
    assert "E   assert 6 > 6" in refused and "the name answer stays" in refused
    assert names(tested) == before
    junit = tmp_path / "junit.xml"
    shown = tested.run("test", "answer", "--set", "answer=6", "--static-only", "--junit", junit, status=1)  # fmt: skip
    assert "FAILED answer.tests.test_it.test_the_answer" in shown.stderr
    assert shown.stdout.splitlines()[1].split()[:5] == ["answer", "-", "1", "of", "16"]
    suite = ElementTree.parse(junit).find("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("answer static", "16", "1")  # fmt: skip


def test_a_build_runs_tests_once_and_again_when_they_change(tested, tmp_path):
    first = tested.run("build", "answer", "--set", "answer=7").stderr
    again = tested.run("build", "answer", "--set", "answer=7").stderr
    assert "static tests" in first and "static tests" not in again
    assert tested.json("image", "ls")[0]["tests"]["static"]["passed"] == 16
    file = tmp_path / "recipes/answer/tests/test_it.py"
    file.write_text(STATIC.replace("> 6", "> 7"))
    assert "E   assert 7 > 7" in tested.run("build", "answer", "--set", "answer=7", status=1).stderr
    row = next(line for line in tested.run("image", "ls").stdout.splitlines() if " answer " in line)
    assert row.endswith("static failed")


def test_a_file_that_is_no_python_is_a_failure_with_its_line(tested, tmp_path):
    (tmp_path / "recipes/answer/tests/test_it.py").write_text("def test_it(host):\n  oops(\n")
    told = tested.run("test", "answer", "--static-only", status=1)
    assert "SyntaxError: '(' was never closed" in told.stderr and "line 2" in told.stderr


@pytest.fixture(scope="module")
def booted(image, tmp_path_factory):
    """worker's tests on three guests: the JUnit file, and what was there before and after."""
    junit = tmp_path_factory.mktemp("junit") / "junit.xml"
    before = left(image)
    image.run("test", "worker", "--junit", junit, timeout=400)
    return ElementTree.parse(junit), before, left(image)


def left(phx: Phx) -> object:
    return phx.json("host", "ls"), phx.json("ps"), sorted(os.listdir("/run/netns"))


def test_boot_tests_run_on_guests_and_leave_nothing(booted, image):
    suites, before, after = booted
    assert [s.get("name") for s in suites.getroot()] == ["worker static", "worker boot"]
    assert {s.get("failures") for s in suites.getroot()} == {"0"}
    ran = {case.get("name") for case in suites.getroot()[1]}
    assert {"test_it_spreads_over_nodes", "test_a_peer_reaches_it_by_name"} <= ran
    assert after == before
    assert next(m for m in image.json("image", "ls") if m["name"] == "worker")["tests"].keys() == {
        "boot",
        "static",
    }


def test_what_a_killed_trial_left_the_next_one_removes(image, library, tmp_path):
    phx = library(late=RECIPE + "  cluster: cluster.yaml\n")
    (tmp_path / "recipes/late/tests").mkdir()
    (tmp_path / "recipes/late/cluster.yaml").write_text("cluster: x\nroles: {}\n")  # boots nothing
    test = "import pytest\n@pytest.mark.boot\ndef test_it(host): pass\n"
    (tmp_path / "recipes/late/tests/test_it.py").write_text(test)
    before = left(image)
    name = "test-999999999"
    image.run("host", "up", name)
    phx.run("test", "late", status=1)
    assert left(image) == before and name not in str(before)
