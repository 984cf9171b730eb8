"""Secrets: kept out of every text that is shown or kept, and read from where the command line says that they lie."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path

from builder.errors import InputError, Problem, shown

LARGEST = 64 << 10
"""Bytes of a build's secret."""
SHORTEST = 4
"""Bytes of a line of a secret below which it is masked only when it is the whole secret: `{` is no secret."""
SURE = 8
"""Bytes of a line of a secret from which on a file that holds it does so by no chance."""


class Secret:
    """Bytes that must not be printed: `str` and `repr` give ***; `reveal` is the one way to them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)


def lines_of(secret: Secret, shortest: int) -> list[bytes]:
    """The lines by which a secret is known, those of at least `shortest` bytes; programs print keys line by line."""
    whole = secret.reveal().strip()
    lines = [line.strip() for line in whole.splitlines()]
    return [line for line in lines if len(line) >= shortest]


class Mask:
    """A stream of bytes with every secret in it replaced by ***, however the stream is cut into blocks."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        words = set()
        for secret in secrets:
            words |= set(lines_of(secret, SHORTEST)) or {secret.reveal().strip()}
        self._words = sorted(words - {b""}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._words)) or b"(?!)")
        self._held = b""

    def feed(self, data: bytes, last: bool = False) -> bytes:
        """What may be shown now. The end of a block that may begin a secret is held back until more is known."""
        text, at, shown = self._held + data, 0, bytearray()
        while True:
            sure = len(text) if last else self._begun(text, at)
            found = self._pattern.search(text, at)
            if found is None or found.start() >= sure:
                break
            shown += text[at : found.start()] + b"***"
            at = found.end()
        self._held = text[sure:]
        return bytes(shown + text[at:sure])

    def _begun(self, text: bytes, at: int) -> int:
        """The first place from `at` on where a secret may begin that goes on after the text; else its end."""
        longest = len(self._words[0]) if self._words else 1
        for start in range(max(at, len(text) - longest + 1), len(text)):
            rest = text[start:]
            if any(len(word) > len(rest) and word.startswith(rest) for word in self._words):
                return start
        return len(text)


def read(texts: Sequence[str], environment: MutableMapping[str, str]) -> dict[str, Secret]:
    """Secrets by name, from texts as in `token=file:PATH` and `token=env:VARIABLE`.

    A variable is taken out of the environment: programs that are started later need not know it.
    Raises InputError with everything that is wrong; no message has a value in it.
    """
    found: dict[str, Secret] = {}
    problems: list[Problem] = []
    for text in texts:
        name, _, origin = text.partition("=")
        kind, _, place = origin.partition(":")
        where = f"--secret {name}"
        if kind not in ("file", "env") or not place or not name:
            # What stands there may be the secret itself.
            what = "a secret is given as NAME=file:PATH or NAME=env:VARIABLE"
            hint = "not by its value: everybody on the machine can read a command line"
            problems.append(Problem("--secret", what, hint))
            continue
        if name in found:
            problems.append(Problem(where, "given twice", "keep one of the two"))
            continue
        try:
            value = environment[place].encode() if kind == "env" else Path(place).read_bytes()
        except KeyError:
            problems.append(Problem(where, f"no variable {shown(place)} in the environment"))
            continue
        except OSError as cause:
            problems.append(Problem(where, f"{place} cannot be read: {cause.strerror}"))
            continue
        if not value.strip():
            problems.append(Problem(where, f"{place} is empty"))
        elif len(value) > LARGEST:
            problems.append(Problem(where, f"{place} is larger than {LARGEST >> 10}K"))
        found[name] = Secret(value)
    if problems:
        raise InputError(problems)
    for text in texts:
        kind, _, place = text.partition("=")[2].partition(":")
        if kind == "env":
            environment.pop(place, None)
    return found
