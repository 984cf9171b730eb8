"""`make figures`: the experiments run, their data and pictures written, and each claim told with the number behind it.

    python -m cluster.figures [FIGURE...] [--host NAME] [--docs]

Ends with 1 if a claim does not hold. Without --host it starts a sandbox host that has one CPU of the machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from builder.errors import (
    EnvironmentLacks,
    InputError,
    PhiloxeniaError,
    Problem,
    WorkFailed,
    explain,
)
from builder.run import attached
from builder.terminal import Terminal, home, user
from cluster.figures import claims, experiments
from cluster.figures.experiments import Result
from cluster.figures.gallery import CALIBRATION, EXPERIMENTS, PICTURES, keep

HOST = "figures"
DOCS = Path(__file__).parents[2] / "docs"
START, END = "<!-- claims: make figures -->", "<!-- end -->"


def main(
    figures: Annotated[
        list[str] | None, typer.Argument(metavar="FIGURE...", help="Some only.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="A host that is there, as one with Xen.")] = None,
    docs: Annotated[
        bool, typer.Option("--docs", help="Put pictures and claims into docs/ too.")
    ] = False,
) -> None:
    """Run the experiments behind the claims that guarantees hold."""
    terminal = Terminal()
    started = time.monotonic()
    try:
        results = _run(figures or list(PICTURES), host, terminal)
    except PhiloxeniaError as error:
        terminal.error(explain(error))
        raise typer.Exit(error.exit_code) from None
    made = [c for r in results for c in r.claims]
    heads = ("FIGURE", "CLAIM", "MEASURED", "MUST BE", "")
    terminal.table(heads, [(*_told(c), "holds" if c.holds else "FAILS") for c in made])
    folder = home() / "figures"
    (folder / "claims.json").write_text(
        json.dumps([{**asdict(c), "holds": c.holds} for c in made], indent=1) + "\n"
    )
    if docs:
        _publish(folder, results)
    terminal.say(
        f"\n{len(results)} figures and their data are in {folder}, made in {time.monotonic() - started:.0f} s"
    )
    if not all(c.holds for c in made):
        raise typer.Exit(1)


def _run(wanted: Sequence[str], host: str | None, terminal: Terminal) -> list[Result]:
    from cluster.figures import bench
    from cluster.hosts import sandbox
    from cluster.site import Site

    unknown = [name for name in wanted if name not in PICTURES]
    if unknown:
        raise InputError(Problem("", f"no figure '{unknown[0]}'", f"known: {', '.join(PICTURES)}"))
    if attached([str(Path(sys.executable).with_name("phx")), "build", "edge", "base"]):
        raise WorkFailed("the images cannot be built")
    folder = home() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    site = Site(home(), user())
    own = host is None
    if own:
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise EnvironmentLacks("there is one CPU", "guests need one and the load another one")
        host = site.start_host(HOST, cpus=str(cpus[0])).name
    assert host is not None
    try:
        results = []
        if CALIBRATION in wanted:
            results.append(
                experiments.cpu_for_bandwidth(site, site.ledger.host(host), terminal.report)
            )
            keep(results[-1], folder)
        run = [name for name in wanted if name in EXPERIMENTS]
        if run:
            with bench.ready(site, host, folder, terminal.report) as ready:
                whole = experiments.capacity(ready)
                for name in run:
                    results.append(EXPERIMENTS[name](ready, whole))
                    keep(results[-1], folder)
        return sorted(results, key=lambda r: wanted.index(r.name))
    finally:
        if own:
            sandbox.down(site.ledger.host(HOST))
            site.ledger.drop_host(HOST)
        site.ledger.close()


def _told(claim: claims.Claim) -> tuple[str, str, str, str]:
    unit = claim.unit
    measured = "none" if claim.measured is None else f"{claim.measured:.2f}{unit}"
    return claim.figure, claim.says, measured, f"{claim.must} {claim.bound:g}{unit}"


def _publish(folder: Path, results: Sequence[Result]) -> None:
    """Pictures into docs/figures/, and the claims between their two marks in docs/guarantees.md."""
    (DOCS / "figures").mkdir(exist_ok=True)
    for result in results:
        (DOCS / "figures" / f"{result.name}.png").write_bytes(
            (folder / f"{result.name}.png").read_bytes()
        )
    lines = ["| figure | claim | measured | must be |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_told(c))} |" for r in results for c in r.claims]
    page = DOCS / "guarantees.md"
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    typer.run(main)
