"""Whose maintainer script failed, or hangs, told from what apt and dpkg say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from builder.errors import CommandFailed, TimedOut, WorkFailed
from builder.plan import Report

_NAMES = {
    "pre-installation": "preinst", "post-installation": "postinst",
    "pre-removal": "prerm", "post-removal": "postrm",
}  # fmt: skip

_FAILED = re.compile(
    r"(?:installed|new|old) (?P<package>\S+) package (?P<script>\S+) script subprocess "
    r"(?:returned error exit status (?P<status>\d+)|was killed by signal \((?P<signal>[^)]+)\))"
    r"|the preinst script of (?P<ours>\S+) failed"
)
_EPILOGUE = re.compile(
    r"dpkg: error processing |Errors were encountered while processing|E: Sub-process |"
    r" (?:installed|new|old) \S+ package \S+ script |the preinst script of \S+ failed"
)
_AT = (
    (re.compile(r"preinst of (\S+)"), "preinst"),
    (re.compile(r"Preparing to unpack \S*?([a-z0-9][a-z0-9+.-]+)_"), "preinst"),
    (re.compile(r"Unpacking (\S+)"), "preinst"),
    (re.compile(r"Setting up (\S+)"), "postinst"),
    (re.compile(r"Processing triggers for (\S+)"), "postinst"),
)

HINT = (
    "nobody answers a maintainer script: debconf takes its defaults, which a parent's run step may "
    "change with debconf-set-selections"
)


class ScriptFailed(WorkFailed):
    """A package's maintainer script did not do its work. Says which one, and what it said last."""


@dataclass(slots=True)
class Ear:
    """Hears a package step line by line: reports its progress, and remembers whose script runs."""

    report: Report
    at: str = ""
    said: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        for pattern, script in _AT:
            if found := pattern.match(line):
                package = found[1].partition(":")[0]
                self.at, self.said = f"the {script} script of {package}", []
                self.report("  " + line[:100])
                return
        if line.strip():
            self.said = [*self.said[-9:], line.rstrip()]

    def late(self, cause: TimedOut) -> WorkFailed:
        """The step took too long: whose script it was."""
        if not self.at:
            return cause
        return ScriptFailed(f"{self.at} {cause.why}{_words(self.said)}", HINT)


def blamed(cause: CommandFailed) -> WorkFailed:
    """The failure as that of a maintainer script, if it is one; else the failure itself."""
    found = _FAILED.search(cause.tail)
    if found is None:
        return cause
    package = (found["package"] or found["ours"]).partition(":")[0]
    script = _NAMES.get(found["script"] or "", "preinst")
    how = "failed"
    if found["status"]:
        how = f"ended with status {found['status']}"
    elif found["signal"]:
        how = f"was killed ({found['signal']})"
    lines = cause.tail.splitlines()
    end = next((n for n, line in enumerate(lines) if _EPILOGUE.match(line)), len(lines))
    start = max((n + 1 for n in range(end) if any(p.match(lines[n]) for p, _ in _AT)), default=0)
    return ScriptFailed(f"the {script} script of {package} {how}{_words(lines[start:end])}", HINT)


def _words(lines: list[str]) -> str:
    if not lines:
        return "; it said nothing"
    return "; it said last:" + "".join(f"\n    {line.rstrip()}" for line in lines)
