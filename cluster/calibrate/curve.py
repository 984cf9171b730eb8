"""The measured points of a sweep turned into what bandwidth costs: how many cores for so many bits, and back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.guarantee import Guarantee

Direction = Literal["in", "out"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out")


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a sweep, as means over its seconds.

    cap    thousandths of a core that the guest was allowed
    used   those that it used, its emulator included
    host   of these and of the kernel's network work, what ran outside of the guest's own CPUs; None where nobody tells
    bits   bit/s that came through, headers included
    """

    cap: int
    used: int
    host: int | None
    bits: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Pieces of straight lines through (thousandths of a core, bit/s); both grow from point to point.

    The first point is the guest that sends nothing: what its CPU does anyway costs as well.
    """

    points: tuple[tuple[int, int], ...]

    def bandwidth_for(self, cores: int) -> int:
        """bit/s that so many thousandths of a core carry; no more than was reached."""
        return _along(self.points, cores, lambda p: p)

    def cores_for(self, bits: int) -> int | None:
        """Thousandths of a core that so many bit/s take, rounded up; None beyond what was reached."""
        if bits <= 0:
            return 0
        if bits > self.most:
            return None
        return _along(self.points, bits, lambda p: (p[1], p[0]), up=True)

    @property
    def most(self) -> int:
        """bit/s that were reached."""
        return self.points[-1][1]


def _along(
    points: tuple[tuple[int, int], ...],
    at: int,
    turned: Callable[[tuple[int, int]], tuple[int, int]],
    up: bool = False,
) -> int:
    """The other coordinate where the line is at `at`, in whole numbers; the ends' beyond the ends."""
    line = [turned(p) for p in points]
    n = bisect_left([x for x, _ in line], at)
    if n == 0:
        return line[0][1]
    if n == len(line):
        return line[-1][1]
    (x, y), (x2, y2) = line[n - 1], line[n]
    rise = (at - x) * (y2 - y)
    return y + (-(-rise // (x2 - x)) if up else rise // (x2 - x))


def curve(idle: int, points: Iterable[Point]) -> Curve:
    """The curve of a sweep. ValueError if nothing came through.

    idle  thousandths of a core that the guest used without traffic

    Where more CPU brought less, the step with less CPU is left out: noise must not make a promise cheaper.
    """
    held: list[tuple[int, int]] = []
    for used, bits in sorted(((p.used, p.bits) for p in points), key=lambda p: (-p[0], p[1])):
        if used > idle and bits > 0 and (not held or (used < held[-1][0] and bits < held[-1][1])):
            held.append((used, bits))
    if not held:
        raise ValueError("no traffic was measured")
    return Curve(((idle, 0), *reversed(held)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured on one host.

    when    UTC, ISO 8601
    idle    thousandths of a core of a guest without traffic
    sweeps  direction, as the guest sees it -> its steps, in the order in which they were measured
    """

    when: str
    accelerator: str
    idle: int
    sweeps: Mapping[Direction, tuple[Point, ...]]

    def curve(self, direction: Direction) -> Curve:
        return curve(self.idle, self.sweeps[direction])

    def cores_for(self, given: Guarantee) -> int | None:
        """Thousandths of a core that a guest's bandwidth guarantees take together; None if they were never reached."""
        inward = self.curve("in").cores_for(given.in_guarantee)
        outward = self.curve("out").cores_for(given.out_guarantee)
        if inward is None or outward is None:
            return None
        # What an idle guest uses is in both.
        return max(inward, outward, inward + outward - self.idle)

    def told(self) -> dict[str, Any]:
        """For JSON; `calibration` reads it."""
        return asdict(self)


def calibration(told: Mapping[str, Any]) -> Calibration:
    sweeps: dict[Direction, tuple[Point, ...]] = {
        direction: tuple(Point(**p) for p in told["sweeps"][direction]) for direction in DIRECTIONS
    }  # fmt: skip
    return Calibration(told["when"], told["accelerator"], told["idle"], sweeps)


def refusal(given: Guarantee, known: Calibration | None) -> tuple[str, str] | None:
    """(why its CPU guarantee cannot carry its bandwidth guarantees, what to do); None when it can, or nobody knows."""
    if known is None:
        return None
    need = known.cores_for(given)
    if need is None:
        inward, outward = (known.curve(d).most // 10**6 for d in DIRECTIONS)
        return (
            "its bandwidth guarantee is more than one guest reached when the host was calibrated",
            f"{inward}Mbit in and {outward}Mbit out were reached; lower network.guarantee",
        )
    if need <= given.cpu_guarantee:
        return None
    return (
        f"{given.cpu_guarantee / 1000:g} cores cannot carry its bandwidth guarantee, which takes {need / 1000:g}",
        f"raise cpu.guarantee to {need / 1000:g}, or lower network.guarantee",
    )
