"""The experiments: which load, which promises, which changes; each gives what it recorded and the claims on it.

Lengths are of the full figure; `pace` shortens them all. Loads are told in parts of what one service gets done when it
has all cores, which is measured first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

from builder.plan import Report
from cluster.calibrate import sweep
from cluster.calibrate.curve import Calibration
from cluster.figures import claims
from cluster.figures.bench import Ask, Bench
from cluster.figures.claims import Claim
from cluster.figures.recording import Phase, Recording
from cluster.figures.series import level
from cluster.hosts.host import Host
from cluster.site import Site

ROUNDS = 1000
"""Hashes that a request costs: some 5 ms of a core under emulation."""
LOADS = (0.25, 0.5, 0.75)
"""VO1's load, 1x, 2x and 3x, in parts of all cores."""
PAGE = 64 << 10
"""Bytes of an answer where bandwidth is what counts."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure's worth: what was recorded, or the host's calibration, and what it must bear out."""

    name: str
    claims: tuple[Claim, ...]
    recordings: tuple[Recording, ...] = ()
    calibration: Calibration | None = None

    @property
    def data(self) -> dict[str, str]:
        """Name of a file -> its text: all that was measured."""
        found = {f"{r.name}.json": r.to_json() for r in self.recordings}
        if self.calibration:
            found[f"{self.name}.json"] = json.dumps(self.calibration.told(), indent=1) + "\n"
        return found


def cpu_for_bandwidth(site: Site, host: Host, report: Report) -> Result:
    """The host's calibration; measured now unless it was before. Other guests must not run there meanwhile."""
    known = site.ledger.calibration(host.name)
    if known is None:
        known = sweep.calibrate(site, host, report)
        site.ledger.put_calibration(host.name, known)
    return Result("cpu-bandwidth", tuple(claims.cpu_for_bandwidth(known)), calibration=known)


def capacity(bench: Bench) -> float:
    """Requests a second of one service that has all cores."""
    _free(bench)
    found = bench.record("capacity", 5, {"VO1": Ask([(0, 5, None)], ROUNDS)})
    return level(found.streams["VO1"].requests, 0, 5)


def _free(bench: Bench) -> None:
    """Without guarantees: the same small weight for both, and no limit but the host's cores."""
    for service in bench.shares:
        bench.promise(service, cpu=(0.1 * bench.cores, bench.cores))


def isolation(bench: Bench, whole: float, pace: float = 1.0) -> Result:
    """VO1's load is raised; VO2 always wants all that it can get."""
    span = 7 * pace
    names = ("VO2 alone", "VO1 1x", "VO1 2x", "VO1 3x")
    phases = [Phase(n * span, (n + 1) * span, name) for n, name in enumerate(names)]
    rising = [(p.start, p.end, load * whole) for p, load in zip(phases[1:], LOADS, strict=True)]
    asked = {"VO1": Ask(rising, ROUNDS), "VO2": Ask([(0, 4 * span, None)], ROUNDS)}

    def run(name: str) -> Recording:
        return bench.record(name, 4 * span, asked, phases)

    _free(bench)
    without = run("isolation-without")
    for service, cores in bench.shares.items():
        bench.promise(service, cpu=(cores, cores))
    with_ = run("isolation-with")
    found = claims.isolation(without, with_, bench.shares)
    return Result("isolation", tuple(found), (without, with_))


def conserving(bench: Bench, pace: float = 1.0) -> Result:
    """VO1 takes all that it gets; VO2 pauses in the middle."""
    span = 7 * pace
    for service, cores in bench.shares.items():
        bench.promise(service, cpu=(cores, bench.cores))
    phases = [Phase(n * span, (n + 1) * span, says)
              for n, says in enumerate(("both busy", "VO2 idle", "both busy"))]  # fmt: skip
    busy = [(0, span, None), (2 * span, 3 * span, None)]
    asked = {"VO1": Ask([(0, 3 * span, None)], ROUNDS), "VO2": Ask(busy, ROUNDS)}
    found = bench.record("work-conserving", 3 * span, asked, phases)
    return Result("work-conserving", tuple(claims.conserving(found)), (found,))


def cpu(bench: Bench, pace: float = 1.0) -> Result:
    """VO2's cores are changed under a load that wants them all."""
    cores = [bench.part(n / 9) for n in (3, 6, 2, 5)]
    span = 7 * pace
    bench.promise("VO2", cpu=(cores[0], cores[0]))
    acts = [(n * span, f"cpu {a:g} to {b:g} cores", lambda b=b: bench.promise("VO2", cpu=(b, b)))
            for n, (a, b) in enumerate(pairwise(cores), 1)]  # fmt: skip
    asked = {"VO2": Ask([(0, 4 * span, None)], ROUNDS)}
    found = bench.record("renegotiating-cpu", 4 * span, asked, acts=acts)
    return Result(found.name, tuple(claims.renegotiating_cpu(found, cores)), (found,))


def bandwidth(bench: Bench, pace: float = 1.0) -> Result:
    """VO2's bandwidth is changed under a load that wants long answers."""
    rates = (8, 24, 12, 20)
    span = 7 * pace
    bench.promise("VO2", cpu=(bench.part(6 / 9), bench.cores), mbit=rates[0])
    acts = [(n * span, f"network {a} to {b} Mbit/s", lambda b=b: bench.promise("VO2", mbit=b))
            for n, (a, b) in enumerate(pairwise(rates), 1)]  # fmt: skip
    asked = {"VO2": Ask([(0, 4 * span, None)], 1, PAGE)}
    found = bench.record("renegotiating-bandwidth", 4 * span, asked, acts=acts)
    return Result(found.name, tuple(claims.renegotiating_bandwidth(found, rates)), (found,))


def both(bench: Bench, whole: float, pace: float = 1.0) -> Result:
    """Each request costs CPU and bandwidth: what is raised helps only until the other one binds."""
    size = 16 << 10
    # What all cores could send, were there no other limit.
    full = whole * size * 8 / 1e6
    cpus = (bench.part(2 / 9), bench.part(6 / 9))
    narrow, wide = max(1, round(full * 0.3)), max(2, round(full * 1.5))
    span = 7 * pace
    bench.promise("VO2", cpu=(cpus[0], cpus[0]), mbit=narrow)
    acts = [
        (span, f"cpu {cpus[0]:g} to {cpus[1]:g} cores", lambda: bench.promise("VO2", cpu=(cpus[1], cpus[1]))),
        (2 * span, f"network {narrow} to {wide} Mbit/s", lambda: bench.promise("VO2", mbit=wide)),
        (3 * span, f"both back: {cpus[0]:g} cores, {narrow} Mbit/s",
         lambda: bench.promise("VO2", cpu=(cpus[0], cpus[0]), mbit=narrow)),
    ]  # fmt: skip
    asked = {"VO2": Ask([(0, 4 * span, None)], ROUNDS, size)}
    found = bench.record("renegotiating-both", 4 * span, asked, acts=acts)
    binds = [("cores", cpus[0]), ("Mbit/s", narrow), ("cores", cpus[1]), ("cores", cpus[0])]
    return Result(found.name, tuple(claims.renegotiating_both(found, binds)), (found,))
