"""What each experiment must bear out, and the numbers that say whether it does: ratios, or seconds until it reacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cluster.calibrate.curve import DIRECTIONS, Calibration
from cluster.figures.recording import Recording
from cluster.figures.series import Event, level, reached

SOON = 2.0
"""Seconds within which a new level must be reached."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of a figure, with the number that was measured for it; None where none could be."""

    figure: str
    says: str
    measured: float | None
    must: Literal["at least", "at most"]
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.held(0.0)

    def held(self, slack: float) -> bool:
        """Whether it holds with a bound that is eased by that part of it."""
        if self.measured is None:
            return False
        if self.must == "at least":
            return self.measured >= self.bound * (1 - slack)
        return self.measured <= self.bound * (1 + slack)


def isolation(without: Recording, with_: Recording, limits: Mapping[str, float]) -> list[Claim]:
    """VO1's load rises over the phases, the first is without any; VO2 always wants all that it can get.

    limits  service -> cores that it may not pass in `with_`
    """
    name = "isolation"

    def kept(recording: Recording) -> list[float]:
        events = recording.streams["VO2"].requests
        levels = [level(events, p.start, p.end) for p in recording.phases]
        return [found / levels[0] for found in levels[1:]]

    found = [
        Claim(name, "without guarantees VO2 suffers: what it keeps at the highest load of VO1", kept(without)[-1],
              "at most", 0.75),
        Claim(name, "with guarantees VO2 keeps its throughput, at the worst of the loads", min(kept(with_)),
              "at least", 0.9),
    ]  # fmt: skip
    for service, limit in limits.items():
        most = max(with_.used(service, p.start + 1, p.end) for p in with_.phases)
        found.append(Claim(name, f"{service} stays within its limit of {limit:g} cores: the most that it used, to it",
                           most / limit, "at most", 1.1))  # fmt: skip
    return found


def conserving(recording: Recording) -> list[Claim]:
    """Phases: both are busy, VO2 is idle, both are busy again. VO1 has no limit but the host's."""
    idle = recording.phases[1]
    one, two = (
        [level(recording.streams[vo].requests, p.start, p.end) for p in recording.phases]
        for vo in ("VO1", "VO2")
    )
    whole = recording.used("VO1", idle.start + 1, idle.end) / recording.cores
    return [
        Claim("work-conserving", "VO1 takes what VO2 leaves: its throughput, to that beside a busy VO2",
              one[1] / max(one[0], one[2]), "at least", 1.8),
        Claim("work-conserving", "nothing lies idle: the part of the cores that VO1 alone uses", whole,
              "at least", 0.9),
        Claim("work-conserving", "and VO2 has its share back: its throughput afterwards, to before", two[2] / two[0],
              "at least", 0.9),
    ]  # fmt: skip


def renegotiating_cpu(recording: Recording, cores: Sequence[float]) -> list[Claim]:
    """VO2's limit is changed to each of `cores` in turn; it always wants more."""
    found = [_soon(recording, recording.streams["VO2"].requests)]
    for (start, end), limit in zip(_spans(recording), cores, strict=True):
        used = recording.used("VO2", start + SOON, end)
        found.append(
            _off(recording.name, f"at a limit of {limit:g} cores", used / limit, "cores used")
        )
    return found


def renegotiating_bandwidth(recording: Recording, mbit: Sequence[float]) -> list[Claim]:
    """VO2's limit is changed to each of `mbit` in turn; it always wants more."""
    events = recording.streams["VO2"].bits
    found = [_soon(recording, events)]
    for (start, end), limit in zip(_spans(recording), mbit, strict=True):
        told = level(events, start, end, SOON) / 1e6
        found.append(
            _off(recording.name, f"at a limit of {limit:g} Mbit/s", told / limit, "payload")
        )
    return found


def renegotiating_both(recording: Recording, limits: Sequence[tuple[str, float]]) -> list[Claim]:
    """Each request of VO2 costs CPU and bandwidth.

    limits  what binds in each span: ("cores" or "Mbit/s", how much)
    """
    bits = recording.streams["VO2"].bits
    found = [_soon(recording, recording.streams["VO2"].requests)]
    for (start, end), (unit, limit) in zip(_spans(recording), limits, strict=True):
        if unit == "cores":
            got, what = recording.used("VO2", start + SOON, end), "cores used"
        else:
            got, what = level(bits, start, end, SOON) / 1e6, "payload"
        found.append(_off(recording.name, f"bound by {limit:g} {unit}", got / limit, what))
    return found


def cpu_for_bandwidth(known: Calibration) -> list[Claim]:
    """What the sweep of `phx host calibrate` found."""
    found = []
    for direction in DIRECTIONS:
        steps = sorted(known.sweeps[direction], key=lambda p: p.cap)
        falls = [1 - more.bits / less.bits for less, more in pairwise(steps)]
        found += [
            Claim("cpu-bandwidth", f"{direction}: little CPU carries little: the least step, to the largest",
                  steps[0].bits / steps[-1].bits, "at most", 0.5),
            Claim("cpu-bandwidth", f"{direction}: more CPU does not carry less: the largest fall of a step",
                  max(0.0, *falls), "at most", 0.15),
        ]  # fmt: skip
    return found


def _spans(recording: Recording) -> list[tuple[float, float]]:
    """From one change to the next."""
    return list(pairwise([0.0, *(c.at for c in recording.changes), recording.seconds]))


def _soon(recording: Recording, events: Sequence[Event]) -> Claim:
    spans = _spans(recording)[1:]
    late = [reached(events, start, end) for start, end in spans]
    known = [s for s in late if s is not None]
    slowest = max(known) if len(known) == len(late) else None
    return Claim(recording.name, "a new level is reached soon after it is asked for: the slowest change", slowest,
                 "at most", SOON, " s")  # fmt: skip


def _off(figure: str, where: str, ratio: float, what: str) -> Claim:
    return Claim(figure, f"{where}: {what}, off the limit by", abs(ratio - 1), "at most", 0.15)
