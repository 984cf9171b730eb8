"""Which figures there are: the experiment of each, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from cluster.figures import draw as pictures
from cluster.figures import experiments
from cluster.figures.bench import Bench
from cluster.figures.experiments import Result

CALIBRATION = "cpu-bandwidth"
"""The one figure for which the host has to be empty."""
EXPERIMENTS: Mapping[str, Callable[[Bench, float], Result]] = MappingProxyType(
    {
        "isolation": experiments.isolation,
        "work-conserving": lambda bench, _: experiments.conserving(bench),
        "renegotiating-cpu": lambda bench, _: experiments.cpu(bench),
        "renegotiating-bandwidth": lambda bench, _: experiments.bandwidth(bench),
        "renegotiating-both": experiments.both,
    }
)
"""Name -> what is run, with the requests a second of one service that has all cores."""


def _renegotiation(title: str, *panels: str) -> Callable[[Result, Path], None]:
    return lambda result, path: pictures.renegotiation(result.recordings[0], panels, title, path)


def _calibration(result: Result, path: Path) -> None:
    if result.calibration:
        pictures.cpu_for_bandwidth(result.calibration, path)


PICTURES: Mapping[str, Callable[[Result, Path], None]] = MappingProxyType({
    "isolation": lambda r, path: pictures.isolation(r.recordings[0], r.recordings[1], path),
    "work-conserving": lambda r, path: pictures.conserving(r.recordings[0], path),
    CALIBRATION: _calibration,
    "renegotiating-cpu": _renegotiation("renegotiating CPU", "requests", "cores"),
    "renegotiating-bandwidth": _renegotiation("renegotiating bandwidth", "bits"),
    "renegotiating-both": _renegotiation("renegotiating CPU and bandwidth", "requests", "bits", "cores"),
})  # fmt: skip


def keep(result: Result, folder: Path) -> None:
    """Write what was measured, and draw it: NAME.png."""
    for name, text in result.data.items():
        (folder / name).write_text(text)
    PICTURES[result.name](result, folder / f"{result.name}.png")
