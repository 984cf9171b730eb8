"""What is known of an image's tests, kept beside it as tests.json: which tests ran, and how they ended.

It is no part of the image's identity: tests change no byte of it.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.testing.session import Outcome

FILE = "tests.json"


@dataclass(frozen=True, slots=True)
class Ran:
    """One kind of tests: how many passed and failed, when (UTC, ISO 8601), and the digest of the test files."""

    tests: str
    passed: int
    failed: int
    when: str


def ran(outcome: Outcome, tests: str, when: str) -> Ran:
    passed = sum(case.outcome == "passed" for case in outcome.cases)
    return Ran(tests, passed, len(outcome.failed), when)


def read(folder: Path) -> dict[str, Ran]:
    """By kind, static and boot; empty when nothing is known."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        told = json.loads((folder / FILE).read_text())
        return {kind: Ran(**one) for kind, one in told.items()}
    return {}


def note(folder: Path, kind: str, what: Ran) -> None:
    """Remember it; the other kind's answer stays if it is of the same tests."""
    kept = {k: r for k, r in read(folder).items() if r.tests == what.tests}
    told = {k: asdict(r) for k, r in sorted({**kept, kind: what}.items())}
    # Two may write it at once: each its own copy, the last one stays.
    aside = folder / f"{FILE}.{uuid.uuid4().hex[:12]}.new"
    aside.write_text(json.dumps(told, indent=1) + "\n")
    aside.replace(folder / FILE)


def shown(known: dict[str, Ran]) -> str:
    """For a table: what passed, or what failed; "-" when nothing is known."""
    words = [f"{k} failed" if r.failed else k for k, r in sorted(known.items(), reverse=True)]
    return ", ".join(words) or "-"
