"""Texts with units, as people write them, turned into whole numbers, and back.

Sizes are bytes (K, M, G, T are powers of 1024), rates are bits per second (kbit, Mbit, Gbit are powers of
1000, as in tc(8)), throughputs are bytes per second (a size and /s), durations are seconds. A number without a unit is
refused: nobody can tell what it meant.
"""

from __future__ import annotations

import re

from builder.errors import shown

_SIZE = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_RATE = {"kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_THROUGHPUT = {f"{name}/s": factor for name, factor in _SIZE.items()}
_TIME = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse(text: object, units: dict[str, int], noun: str, example: str) -> int:
    names = ", ".join(units)
    hint = f"write a whole number with one of {names}, as in {example}"
    if not isinstance(text, str):
        raise ValueError(f"{shown(text)} is not a {noun}; {hint}")
    found = re.fullmatch(r"([0-9]+)\s*([A-Za-z]+(?:/s)?)", text.strip())
    if not found or found[2] not in units:
        raise ValueError(f"{shown(text)} is not a {noun}; {hint}")
    value = int(found[1]) * units[found[2]]
    if value == 0:
        raise ValueError(f"{shown(text)} is zero; {hint}")
    return value


def size(text: object) -> int:
    """Bytes.

    >>> size("512M")
    536870912
    """
    return _parse(text, _SIZE, "size", "512M")


def rate(text: object) -> int:
    """Bits per second.

    >>> rate("20Mbit")
    20000000
    """
    return _parse(text, _RATE, "rate", "20Mbit")


def throughput(text: object) -> int:
    """Bytes per second.

    >>> throughput("20M/s")
    20971520
    """
    return _parse(text, _THROUGHPUT, "throughput", "20M/s")


def duration(text: object) -> int:
    """Seconds.

    >>> duration("10m")
    600
    """
    return _parse(text, _TIME, "duration", "90s")


def show_duration(value: int) -> str:
    """The shortest exact text that `duration` reads back.

    >>> show_duration(2_592_000), show_duration(90)
    ('30d', '90s')
    """
    return _show(value, _TIME)


def _show(value: int, units: dict[str, int]) -> str:
    for name, factor in sorted(units.items(), key=lambda kv: -kv[1]):
        if value and value % factor == 0:
            return f"{value // factor}{name}"
    return str(value)


def show_size(value: int) -> str:
    """The shortest exact text that `size` reads back; bytes otherwise rounded to MiB.

    >>> show_size(1 << 30)
    '1G'
    >>> show_size(1_500_000)
    '1.4M'
    """
    text = _show(value, _SIZE)
    if len(text) <= 6 and not text.isdigit():
        return text
    return show_about(value)


def show_about(value: float) -> str:
    """A measured number of bytes, in the largest unit that it fills, with one digit after the point.

    >>> show_about(85_579 << 10), show_about(812)
    ('83.6M', '812B')
    """
    for name, factor in sorted(_SIZE.items(), key=lambda kv: -kv[1]):
        if value >= factor > 1:
            return f"{value / factor:.1f}{name}"
    return f"{value:.0f}B"


def show_throughput(value: int) -> str:
    """The shortest exact text that `throughput` reads back.

    >>> show_throughput(20 << 20)
    '20M/s'
    """
    return _show(value, _THROUGHPUT)


def show_rate(value: int) -> str:
    """The shortest exact text that `rate` reads back.

    >>> show_rate(20_000_000)
    '20Mbit'
    """
    return _show(value, _RATE) if value % 1000 == 0 else f"{value}bit"
