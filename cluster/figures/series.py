"""What a load saw, turned into numbers: throughput over time, levels, the moment at which a new level is reached.

Times are seconds from the start of the load; throughput is events (requests, bits) per second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Event = tuple[float, float]
"""(when, how much)."""
STEP = 0.1
"""Seconds between two places at which a level is looked for."""


@dataclass(frozen=True, slots=True)
class Series:
    """Throughput in spans of equal length: `values[n]` is that of [n, n + 1) spans after `start`."""

    start: float
    span: float
    values: tuple[float, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """The middle of each span."""
        return tuple(self.start + (n + 0.5) * self.span for n in range(len(self.values)))


def throughput(events: Sequence[Event], start: float, end: float, span: float = 0.5) -> Series:
    """Of events in [start, end); what is left over at the end of whole spans is not counted.

    >>> throughput([(0.1, 1), (0.2, 1), (1.4, 1)], 0, 1.5, 0.5).values
    (4.0, 0.0, 2.0)
    """
    count = int((end - start) / span + 1e-9)
    sums = [0.0] * max(0, count)
    for at, much in events:
        n = int((at - start) / span) if at >= start else -1
        if 0 <= n < count:
            sums[n] += much
    return Series(start, span, tuple(s / span for s in sums))


def level(events: Sequence[Event], start: float, end: float, settle: float = 1.0) -> float:
    """Mean throughput of [start + settle, end): what a phase comes to. ValueError if nothing is left of it."""
    begin = start + settle
    if end <= begin:
        raise ValueError("the phase ends before it has settled")
    return sum(much for at, much in events if begin <= at < end) / (end - begin)


def reached(
    events: Sequence[Event], change: float, end: float, within: float = 0.2, window: float = 0.5
) -> float | None:
    """Seconds from a change until throughput was seen at the level that it then keeps; None if it keeps none.

    That level is the median of the windows of the last half before `end`. It is seen when a window that begins at or
    after the change comes within a part of it, and the next one, right after, does too; what is given is the end of the
    first of them, so never less than `window`. Resolution: STEP. A window is long beside the gaps between events, else
    noise is taken for a change.
    """
    times = [at for at, _ in events]

    def mean(begin: float) -> float:
        low, high = bisect_left(times, begin), bisect_left(times, begin + window)
        return sum(much for _, much in events[low:high]) / window

    half = (change + end) / 2
    count = int((end - half) / window + 1e-9)
    if count < 1:
        raise ValueError("a level cannot be told from so short a time")
    target = median(mean(half + n * window) for n in range(count))

    def there(begin: float) -> bool:
        return abs(mean(begin) - target) <= within * target

    for n in range(int((end - 2 * window - change) / STEP + 1e-9) + 1):
        begin = change + n * STEP
        if there(begin) and there(begin + window):
            return round(begin + window - change, 3)
    return None


def histogram(
    values: Sequence[float], bins: int, top: float
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(edges, counts) of `bins` equal parts of [0, top]; what is above it is in the last.

    >>> histogram([0, 1, 5, 10, 11], 2, 10)
    ((0.0, 5.0, 10.0), (2, 3))
    """
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins / top)))] += 1
    return tuple(top * n / bins for n in range(bins + 1)), tuple(counts)
