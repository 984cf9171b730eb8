"""The linters are tests: ruff and mypy over everything, and every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import SOURCES

ROOT = Path(__file__).parent.parent
TOOLS = Path(sys.executable).parent


@pytest.mark.process
@pytest.mark.parametrize(
    "argv", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join
)
def test_clean(argv):
    if not (TOOLS / argv[0]).exists():
        pytest.fail(f"{argv[0]} is missing: pip install -e '.[dev]'")
    done = subprocess.run([TOOLS / argv[0], *argv[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)} says:\n{done.stdout}{done.stderr}"


NAMES = sorted(s.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for s in SOURCES)


@pytest.mark.parametrize("name", NAMES)
def test_examples(name, capsys):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out


def test_some_examples_were_found():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in NAMES) >= 5
