"""Recordings as pictures: throughput over time with what was changed marked, and histograms beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.calibrate.curve import DIRECTIONS, Calibration
from cluster.figures.recording import Recording
from cluster.figures.series import Event, histogram, throughput

COLOURS = {"VO1": "#c44e52", "VO2": "#4c72b0"}
BINS = 12


def isolation(without: Recording, with_: Recording, path: Path) -> None:
    """Two rows: without and with guarantees; each over time, and its histogram."""
    figure, axes = _sheet(2, 2, widths=(3, 1))
    top = 1.15 * max(max(_requests(r, s).values) for r in (without, with_) for s in COLOURS)
    for row, recording, title in (
        (0, without, "without guarantees"),
        (1, with_, "with guarantees"),
    ):
        _over_time(axes[row][0], recording, title, top)
        _histogram(axes[row][1], recording, top)
    axes[1][0].set_xlabel("seconds")
    axes[1][1].set_xlabel("half seconds")
    _save(figure, path)


def conserving(recording: Recording, path: Path) -> None:
    figure, axes = _sheet(1, 1)
    top = 1.15 * max(max(_requests(recording, s).values) for s in COLOURS)
    _over_time(axes[0][0], recording, "what one leaves, the other may use", top)
    axes[0][0].set_xlabel("seconds")
    _save(figure, path)


def renegotiation(recording: Recording, panels: Sequence[str], title: str, path: Path) -> None:
    """One panel for each of "requests", "bits" and "cores", over the same time; each change is a line."""
    drawn: dict[str, Callable[[Any], None]] = {
        "requests": lambda axis: _line(axis, recording.streams["VO2"].requests, recording, 1.0, "requests/s"),
        "bits": lambda axis: _line(axis, recording.streams["VO2"].bits, recording, 1e-6, "Mbit/s"),
        "cores": lambda axis: _cores(axis, recording),
    }  # fmt: skip
    figure, axes = _sheet(len(panels), 1)
    for row, panel in enumerate(panels):
        axis = axes[row][0]
        drawn[panel](axis)
        axis.set_ylim(bottom=0)
        for change in recording.changes:
            axis.axvline(change.at, color="black", linestyle="--", linewidth=1)
    for change in recording.changes:
        axes[0][0].annotate(change.says, (change.at, 1), xycoords=("data", "axes fraction"), xytext=(3, 3),
                            textcoords="offset points", fontsize=7, rotation=12)  # fmt: skip
    axes[-1][0].set_xlabel("seconds")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def cpu_for_bandwidth(known: Calibration, path: Path) -> None:
    """Each direction: the steps of the sweep, and the curve that admission reads."""
    figure, axes = _sheet(1, 1)
    axis = axes[0][0]
    for direction, colour in zip(DIRECTIONS, COLOURS.values(), strict=True):
        steps, line = known.sweeps[direction], known.curve(direction).points
        axis.plot(
            [x / 1000 for x, _ in line], [y / 1e6 for _, y in line], color=colour, label=direction
        )
        axis.plot([p.used / 1000 for p in steps], [p.bits / 1e6 for p in steps], "o", color=colour)
    axis.set(xlabel="cores used", ylabel="Mbit/s", xlim=(0, None), ylim=(0, None))
    axis.set_title("what bandwidth costs, as the guest sees its direction", fontsize=10)
    axis.legend(loc="lower right", fontsize=7)
    _save(figure, path)


def _requests(recording: Recording, service: str) -> Any:
    events = recording.streams[service].requests
    return throughput(events, 0, recording.seconds)


def _over_time(axis: Any, recording: Recording, title: str, top: float) -> None:
    for service, colour in COLOURS.items():
        series = _requests(recording, service)
        axis.step(series.times, series.values, where="mid", color=colour, label=service)
    for phase in recording.phases:
        axis.axvline(phase.start, color="grey", linestyle=":", linewidth=1)
        axis.annotate(phase.says, (phase.start, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    axis.set(ylabel="requests/s", ylim=(0, top), xlim=(0, recording.seconds), title=title)
    axis.legend(loc="lower right", fontsize=7)


def _histogram(axis: Any, recording: Recording, top: float) -> None:
    for n, (service, colour) in enumerate(COLOURS.items()):
        edges, counts = histogram(_requests(recording, service).values, BINS, top)
        height = (edges[1] - edges[0]) * 0.4
        places = [edge + height * (n + 0.7) for edge in edges[:-1]]
        axis.barh(places, counts, height=height, color=colour)
    axis.set(ylim=(0, top))
    axis.tick_params(labelleft=False)


def _line(
    axis: Any, events: Sequence[Event], recording: Recording, unit: float, label: str
) -> None:
    series = throughput(events, 0, recording.seconds)
    values = [value * unit for value in series.values]
    axis.step(series.times, values, where="mid", color=COLOURS["VO2"])
    axis.set(ylabel=label, xlim=(0, recording.seconds))


def _cores(axis: Any, recording: Recording) -> None:
    spells = [s for s in recording.cpu["VO2"] if s.start >= 0]
    axis.step(
        [(s.start + s.end) / 2 for s in spells],
        [s.cores for s in spells],
        where="mid",
        color="#55a868",
    )
    axis.set(ylabel="cores used", xlim=(0, recording.seconds))


def _sheet(rows: int, columns: int, widths: Sequence[float] = (1,)) -> tuple[Any, Any]:
    # No display is asked for: the figure has a canvas of its own.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"width_ratios": list(widths)})
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    # Without the version of matplotlib in it, the same data gives the same bytes for longer.
    figure.savefig(path, dpi=80, metadata={"Software": None})
