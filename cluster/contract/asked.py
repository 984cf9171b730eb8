"""`KEY=VALUE` of `phx set` turned into fields of a Guarantee with the cluster file's units, and back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from builder import units
from builder.errors import InputError, Problem, close, shown
from cluster.guarantee import KEYS, Guarantee, differing
from cluster.spec import cores

BOTH: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "memory": ("memory.min", "memory.max"),
    "network.guarantee": ("network.in.guarantee", "network.out.guarantee"),
    "network.limit": ("network.in.limit", "network.out.limit"),
})  # fmt: skip
"""Keys that stand for two."""
PAIRS = (
    ("cpu.guarantee", "cpu.limit"),
    ("memory.min", "memory.max"),
    ("network.in.guarantee", "network.in.limit"),
    ("network.out.guarantee", "network.out.limit"),
)
"""The first of each is at most the second."""
NONE = "none"


def _cores(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if number != number:
        return cores(text)  # which refuses it
    return cores(number)


def _iops(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10**9:
        raise ValueError(
            f"{shown(text)} is not a number of operations; write a whole number from 1, as in 500"
        )
    return int(text)


_READ: Mapping[str, Callable[[str], int]] = MappingProxyType({
    "cpu": _cores, "memory": units.size, "network": units.rate,
    "disk.throughput": units.throughput, "disk.iops": _iops,
})  # fmt: skip


def asked(words: Iterable[str]) -> dict[str, int]:
    """Field of Guarantee -> number. InputError with all that is wrong in them."""
    found: dict[str, int] = {}
    problems: list[Problem] = []
    known = [key for key in (*KEYS, *BOTH) if key != "disk.size"]
    for word in words:
        key, equals, text = word.partition("=")
        if key == "disk.size":
            problems.append(
                Problem(key, "a disk keeps its size while its node lives",
                        "write it into the cluster file: phx up --replace makes a new disk")
            )  # fmt: skip
        elif key not in known:
            what = f"unknown key '{key}'" if equals else f"{shown(word)} is not KEY=VALUE"
            problems.append(Problem("", what, close(key, known)))
        elif not equals:
            problems.append(Problem(key, "has no value", f"write {key}=VALUE"))
        else:
            read = _READ.get(key) or _READ[key.partition(".")[0]]
            fields = [KEYS[k] for k in BOTH.get(key, (key,))]
            try:
                limitless = text == NONE and key.startswith("disk.")
                value = 0 if limitless else read(text)
            except ValueError as cause:
                what, _, hint = str(cause).partition("; ")
                problems.append(Problem(key, what, hint))
                continue
            if taken := [f for f in fields if f in found]:
                names = [k for k, field in KEYS.items() if field in taken]
                problems.append(Problem(key, f"{names[0]} is said twice", "keep one of the two"))
            found |= dict.fromkeys(fields, value)
    if not found and not problems:
        problems.append(Problem("", "nothing is asked for", "write KEY=VALUE, as in cpu.limit=1"))
    if problems:
        raise InputError(problems)
    return found


def changed(
    node: str, before: Guarantee, wanted: Mapping[str, int]
) -> tuple[Guarantee, list[Problem]]:
    """The guarantee with what is asked, and what is wrong with it as a whole."""
    after = replace(before, **wanted)
    problems = []
    for low, high in PAIRS:
        if getattr(after, KEYS[low]) > getattr(after, KEYS[high]):
            ends = {k for k in (low, high) if KEYS[k] in wanted}
            other = high if low in ends else low
            hint = f"set {other} as well" if len(ends) == 1 else f"lower {low} or raise {high}"
            problems.append(Problem(node, f"{low} would be above {high}", hint))
    return after, problems


_SHOWN: Mapping[str, Callable[[int], str]] = MappingProxyType({
    "cpu": lambda cores: f"{cores / 1000:g}", "memory": units.show_size, "network": units.show_rate,
    "disk.size": units.show_size, "disk.throughput": units.show_throughput, "disk.iops": str,
})  # fmt: skip


def written(key: str, given: Guarantee) -> str:
    """One number of a guarantee as people write it."""
    value: int = getattr(given, KEYS[key])
    show = _SHOWN.get(key) or _SHOWN[key.partition(".")[0]]
    return show(value) if value or not key.startswith("disk.") else NONE


def told(before: Guarantee, after: Guarantee) -> list[str]:
    """Each key that changes.

    >>> from tests.invented import promise
    >>> told(promise(500), promise(750, memory=1 << 30))
    ['cpu.guarantee 0.5 -> 0.75', 'memory.min 512M -> 1G', 'memory.max 512M -> 1G']
    """
    return [f"{k} {written(k, before)} -> {written(k, after)}" for k in differing(before, after)]
