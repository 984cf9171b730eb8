"""What one experiment recorded: a value that can be written, read, drawn and judged again without running anything.

All times are seconds since the load's start, by the load's clock.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cluster.figures.series import Event


@dataclass(frozen=True, slots=True)
class Phase:
    """A time in which nothing was changed."""

    start: float
    end: float
    says: str


@dataclass(frozen=True, slots=True)
class Change:
    """A promise that was changed: when it was asked for, and how many seconds it took until it was in force."""

    at: float
    took: float
    says: str


@dataclass(frozen=True, slots=True)
class Stream:
    """What the load of one service saw.

    done   when each request was answered
    bytes  (when, how many) of the answers' bodies, a fiftieth of a second together
    lost   requests that were given up
    """

    done: tuple[float, ...]
    bytes: tuple[Event, ...]
    lost: int

    @property
    def requests(self) -> tuple[Event, ...]:
        return tuple((at, 1.0) for at in self.done)

    @property
    def bits(self) -> tuple[Event, ...]:
        return tuple((at, 8.0 * count) for at, count in self.bytes)


@dataclass(frozen=True, slots=True)
class Spell:
    """CPU that a guest used between two looks: cores."""

    start: float
    end: float
    cores: float


@dataclass(frozen=True, slots=True)
class Recording:
    """One experiment.

    cores  that the guests shared
    cpu    service -> its spells, without gaps
    """

    name: str
    driver: str
    cores: float
    seconds: float
    phases: tuple[Phase, ...]
    changes: tuple[Change, ...]
    streams: dict[str, Stream]
    cpu: dict[str, tuple[Spell, ...]]

    def used(self, service: str, start: float, end: float) -> float:
        """Cores that a service's guest used, from the spells within [start, end). ValueError if there is none."""
        within = [s for s in self.cpu[service] if s.start >= start and s.end <= end]
        if not within:
            raise ValueError(f"nobody looked at {service} between {start:g} and {end:g} s")
        seconds = sum(s.end - s.start for s in within)
        return sum(s.cores * (s.end - s.start) for s in within) / seconds

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recording:
        told: dict[str, Any] = json.loads(text)
        told["phases"] = tuple(Phase(**p) for p in told["phases"])
        told["changes"] = tuple(Change(**c) for c in told["changes"])
        told["streams"] = {
            name: Stream(tuple(s["done"]), tuple((at, n) for at, n in s["bytes"]), s["lost"])
            for name, s in told["streams"].items()
        }
        told["cpu"] = {
            name: tuple(Spell(**s) for s in spells) for name, spells in told["cpu"].items()
        }
        return cls(**told)
