"""How pytest is started for the tests of an appliance, and what it found: from its words and its JUnit file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import WorkFailed
from builder.language.flat import Flat

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_QUIET = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "--import-mode=importlib"]


@dataclass(frozen=True, slots=True)
class Case:
    """One test. `outcome` is passed, skipped or failed; `text` says why."""

    name: str
    seconds: float
    outcome: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a recipe's tests.

    kind   static or boot
    boot   how many tests are marked `boot`, whether they ran or not
    peer   whether any of these wants a second guest
    suite  the JUnit element, as XML
    """

    kind: str
    cases: tuple[Case, ...]
    boot: int = 0
    peer: bool = False
    suite: str = ""

    @property
    def failed(self) -> tuple[Case, ...]:
        return tuple(c for c in self.cases if c.outcome == "failed")

    @property
    def told(self) -> str:
        """For people: "9 passed", "1 of 9 failed"."""
        if self.failed:
            return f"{len(self.failed)} of {len(self.cases)} failed"
        skipped = sum(c.outcome == "skipped" for c in self.cases)
        return f"{len(self.cases) - skipped} passed" + (f", {skipped} skipped" if skipped else "")


def digest(flat: Flat) -> str:
    """Of all test files of the chain: the same tests again are told apart from others. "" without any."""
    told = [[test.recipe, test.name, test.sha256] for test in flat.tests]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest() if told else ""


def root(flat: Flat) -> str:
    """The folder of the recipes: tests are called after their recipe there, as in base.tests.test_base."""
    return os.path.commonpath([Path(test.folder).absolute().parent for test in flat.tests])


def argv(flat: Flat, junit: str, kind: str) -> list[str]:
    """pytest over the recipe's files; the report goes to `junit`."""
    files = [str(Path(test.folder).absolute() / test.name) for test in flat.tests]
    return [
        sys.executable, "-P", "-B", "-m", "pytest", *_QUIET, "-c", "/dev/null",
        "--rootdir", root(flat), "-p", "builder.testing.plugin", "--junit-xml", junit,
        "-o", f"junit_suite_name={flat.name} {kind}", *files,
    ]  # fmt: skip


def environment(brief: Mapping[str, Any], tmp: str) -> dict[str, str]:
    """pytest's environment: no plugin of the machine's, and nothing of ours but the brief.

    tmp  a folder for temporary files
    """
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8", "HOME": "/root", "TMPDIR": tmp,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PHX_TEST": json.dumps(brief, sort_keys=True),
    }  # fmt: skip


def exports(environment: Mapping[str, str]) -> str:
    """Shell lines that set it."""
    return "".join(f"export {k}={shlex.quote(v)}\n" for k, v in environment.items())


def read(kind: str, said: str, junit: str) -> Outcome:
    """What pytest found. WorkFailed with its last words when it did not come to run tests."""
    from xml.etree import ElementTree

    told = re.search(r"^phx: (\{.*\})$", said, re.M)
    try:
        suite = ElementTree.fromstring(junit).find("testsuite")
    except ElementTree.ParseError:
        suite = None
    if suite is None:
        words = "\n".join(line for line in said.splitlines() if line.strip())[-2000:]
        raise WorkFailed(f"pytest did not run: {words or 'it said nothing'}")
    facts: dict[str, Any] = json.loads(told[1]) if told else {"boot": 0, "peer": False}
    cases = tuple(_case(element) for element in suite.iter("testcase"))
    return Outcome(
        kind, cases, facts["boot"], facts["peer"], ElementTree.tostring(suite, "unicode")
    )


def _case(element: Element) -> Case:
    where = element.get("classname", "")
    name = f"{where}.{element.get('name')}" if where else element.get("name", "")
    outcome, text = "passed", ""
    for child in element:
        if child.tag in ("failure", "error"):
            outcome, text = "failed", (child.text or child.get("message") or "").strip()
        elif child.tag == "skipped" and outcome == "passed":
            outcome, text = "skipped", child.get("message") or ""
    return Case(name, float(element.get("time") or 0), outcome, text)


def single(kind: str, recipe: str, case: Case) -> Outcome:
    """A run of one test that pytest did not see."""
    from xml.etree import ElementTree

    failed = "1" if case.outcome == "failed" else "0"
    suite = ElementTree.Element("testsuite", name=f"{recipe} {kind}", tests="1", failures=failed)
    element = ElementTree.SubElement(suite, "testcase", name=case.name, time=f"{case.seconds:.3f}")
    if case.outcome == "failed":
        ElementTree.SubElement(
            element, "failure", message=case.text.partition("\n")[0]
        ).text = case.text
    return Outcome(kind, (case,), suite=ElementTree.tostring(suite, "unicode"))


def junit(outcomes: Iterable[Outcome]) -> str:
    """One JUnit file of many runs."""
    from xml.etree import ElementTree

    top = ElementTree.Element("testsuites")
    top.extend(ElementTree.fromstring(o.suite) for o in outcomes if o.suite)
    ElementTree.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(top, "unicode") + "\n"


def failures(outcomes: Sequence[Outcome]) -> str:
    """What failed, for people: each test's name and what pytest shows of it."""
    lines = []
    for outcome in outcomes:
        for case in outcome.failed:
            lines.append(f"FAILED {case.name}")
            lines += [f"    {line}" for line in case.text.splitlines()]
    return "\n".join(lines)
