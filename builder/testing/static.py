"""A recipe's static tests on its tree: pytest beside the tree in a chamber, each command of a test in the tree."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from builder.language.flat import Flat
from builder.layers import LayerStore
from builder.plan import Report
from builder.testing import session
from builder.testing.session import Outcome

TIMEOUT = 300.0
"""Seconds for all static tests of one recipe."""
_END = "-- phx: what pytest reported"

# Of the machine, only the tree can be written. What cannot be had read-only (a mount of the user's namespace whose
# flags are locked) is not the tests' to write either, unless they are root's.
_SCRIPT = """
while read -r _ _ _ _ at _; do
    case $at in "$m"|"$m"/*|/proc|/proc/*) ;; *) mount -o remount,bind,ro "$at" 2>/dev/null || : ;; esac
done < /proc/self/mountinfo
cd {root}
{pytest} 2>&1 || :
echo '{end}'
cat "$m/run/phx-tests.xml" 2>/dev/null || :
"""


def run(
    flat: Flat, layers: Sequence[str], store: LayerStore, report: Report, log: Path | None = None
) -> Outcome:
    """Run them over these layers; nothing that they write stays. Raises WorkFailed, or TimedOut after TIMEOUT."""
    if not flat.tests:
        return Outcome("static", ())
    report(f"{flat.name}: static tests")
    with store.begin(layers) as chamber:
        merged = chamber.work / "merged"
        brief = {"boot": False, "tree": str(merged), "nodes": [],
                 "parameters": dict(flat.parameters)}  # fmt: skip
        pytest = shlex.join(session.argv(flat, str(merged / "run" / "phx-tests.xml"), "static"))
        script = session.exports(session.environment(brief, f"{merged}/tmp"))
        script += _SCRIPT.format(root=shlex.quote(session.root(flat)), pytest=pytest, end=_END)
        done = chamber.outside(script, timeout=TIMEOUT, log=log, furnished=True)
    said, _, junit = done.text.partition(f"{_END}\n")
    return session.read("static", said, junit)
