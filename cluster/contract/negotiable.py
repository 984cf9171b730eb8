"""What a role's owner lets its guests ask for: `negotiable` of a cluster file, and a request held against it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.errors import InputError, Problem
from cluster.contract import asked
from cluster.guarantee import KEY_OF, KEYS

Bounds = Mapping[str, tuple[int, int]]
"""Field of Guarantee -> the least and the most that a guest may ask for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request from inside a guest, and its answer.

    name     of the request
    time     of the answer, UTC, ISO 8601
    granted  whether it was
    said     what changed and what is left, or why it was refused
    """

    cluster: str
    node: str
    name: str
    words: tuple[str, ...]
    time: str
    granted: bool
    said: str


def bounds(written: Mapping[str, str]) -> Bounds:
    """`KEY: LOW..HIGH`, LOW left out for no lower bound. InputError with all that is wrong in it; `where` is the key.

    >>> bounds({"cpu.limit": "0.2..0.8", "network.in.limit": "..50Mbit"})
    {'cpu_limit': (200, 800), 'in_limit': (0, 50000000)}
    """
    found: dict[str, tuple[int, int]] = {}
    problems: list[Problem] = []
    for key, text in written.items():
        low, dots, high = text.partition("..")
        if not dots or not high:
            what = f"'{text}' is not LOW..HIGH"
            problems.append(Problem(key, what, "write it as in 0.2..0.8, or ..0.8"))
            continue
        try:
            most = asked.asked([f"{key}={high.strip()}"])
            least = asked.asked([f"{key}={low.strip()}"]) if low.strip() else dict.fromkeys(most, 0)
        except InputError as cause:
            problems += [Problem(key, p.what, p.hint) for p in cause.problems]
            continue
        if any(least[f] >= most[f] for f in most):
            problems.append(
                Problem(key, f"'{text}' leaves nothing to ask for", "write LOW below HIGH")
            )
        elif twice := [name for name, f in KEYS.items() if f in most and f in found]:
            problems.append(Problem(key, f"{twice[0]} is said twice", "keep one of the two"))
        else:
            found |= {f: (least[f], most[f]) for f in most}
    if problems:
        raise InputError(problems)
    return found


def within(allowed: Mapping[str, str], words: Iterable[str]) -> dict[str, int]:
    """Field -> number of a guest's request. InputError for what cannot be read, and for what its owner does not allow.

    allowed  `negotiable` as written
    """
    wanted, limits = asked.asked(words), bounds(allowed)
    ranges = ", ".join(f"{k} {text}" for k, text in allowed.items()) or "nothing"
    problems = [
        Problem(KEY_OF[f], "cannot be asked for from inside" if f not in limits else "is outside the limits",
                f"what may be asked for: {ranges}")
        for f, value in wanted.items()
        if f not in limits or not limits[f][0] <= value <= limits[f][1]
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    return wanted
