"""What went wrong, in words a user can act on.

    PhiloxeniaError              exit 1
    ├── InputError               exit 2   a document or argument is wrong: every problem at once
    ├── EnvironmentLacks         exit 3   the machine has not what the work needs
    ├── NoRoom                   exit 4   no host can hold what was asked; names the roomiest
    └── WorkFailed               exit 1   the work was right and did not succeed
        ├── CommandFailed                 a program ended badly: its name, status and last words
        └── TimedOut                      a deadline passed: what was waited for, what was last seen

Anything else that reaches the top is a bug and shows a traceback. Library code raises these and never
prints or exits; only the command line turns them into text (`explain`) and an exit status.
A message never repeats its cause: `raise WorkFailed("...") from cause`, and the chain is printed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: `where` (file:line: key), `what`, and what to do about it."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}"


class PhiloxeniaError(Exception):
    """Root of every error that is not a bug. `hint` says what the user can do."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class InputError(PhiloxeniaError):
    """A document or an argument is wrong. Carries every problem found, in the order of the text."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        found = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("; ".join(str(p) for p in found))
        self.problems = found


class EnvironmentLacks(PhiloxeniaError):
    """A program, a right or a kernel feature is missing here."""

    exit_code = 3


class NoRoom(PhiloxeniaError):
    """No host can carry the promise. The hint names the roomiest host and what it has left."""

    exit_code = 4


class WorkFailed(PhiloxeniaError):
    """The work was asked for rightly and did not succeed."""


class CommandFailed(WorkFailed):
    """A program ended with a status other than 0.

    argv    as started; secrets never stand in it
    status  exit status, negative for a signal
    tail    the last lines it wrote to standard error (or to its output)
    """

    def __init__(self, argv: Sequence[str], status: int, tail: str, hint: str = "") -> None:
        ended = f"signal {-status}" if status < 0 else f"exit {status}"
        last = f": {tail.strip()}" if tail.strip() else ""
        super().__init__(f"{ended}: {argv[0]}{last}", hint)
        self.argv = tuple(argv)
        self.status = status
        self.tail = tail


class TimedOut(WorkFailed):
    """A deadline passed. The message says what was waited for and what was last seen.

    why  how that was told apart from working, to stand behind a name: "did not end in time"
    """

    def __init__(self, what: str, hint: str = "", why: str = "did not end in time") -> None:
        super().__init__(what, hint)
        self.why = why


def shown(value: object) -> str:
    """A value as its writer knows it: YAML's words, and no more of it than a line holds.

    >>> shown(True), shown(None), shown("a b")
    ('true', 'nothing', "'a b'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def close(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word nearest to `word`, or all of them when none is near."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(words)}" if words else ""


def explain(error: PhiloxeniaError) -> str:
    """The error as the user reads it: problems or message, hints, then each cause once."""
    lines: list[str] = []
    if isinstance(error, InputError):
        for p in error.problems:
            lines.append(f"error: {p}")
            if p.hint:
                lines.append(f"  hint: {p.hint}")
        if len(error.problems) > 1:
            lines.append(f"{len(error.problems)} errors, nothing was done")
    else:
        lines.append(f"error: {error.what}")
    cause = error.__cause__
    while cause is not None:
        text = cause.what if isinstance(cause, PhiloxeniaError) else _plain(cause)
        lines.append(f"  because: {text}")
        if isinstance(cause, PhiloxeniaError) and cause.hint and not error.hint:
            lines.append(f"  hint: {cause.hint}")
        cause = cause.__cause__
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)


def _plain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
