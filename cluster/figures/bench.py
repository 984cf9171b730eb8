"""Two edge services of two owners on one host, a load on them, and their promises changed while it runs."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from builder.errors import PhiloxeniaError, WorkFailed
from builder.plan import Report
from cluster import launch
from cluster.contract import asked, renegotiate
from cluster.figures.recording import Change, Phase, Recording, Spell, Stream
from cluster.hosts.host import cpu_list
from cluster.hosts.reach import Reach
from cluster.metering.look import Watch
from cluster.site import Site

SERVICES = ("VO1", "VO2")
LOOK = 0.5
"""Seconds between two looks at the guests' CPU time."""
Rate = float | None
"""Requests a second; None is as many as come back."""

_FILE = """\
cluster: {name}
owner: {service}
roles:
  edge:
    image: edge
    cpu: {{guarantee: {guarantee}, limit: {limit}}}
    memory: 256M
    network: {{guarantee: 1Mbit, limit: 200Mbit}}
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a service: `rates` has (from, to, requests a second)."""

    rates: Sequence[tuple[float, float, Rate]]
    rounds: int
    size: int = 64


@dataclass(slots=True)
class Bench:
    """A host with the two services ready.

    cores   that the guests share
    shares  service -> the cores that it is promised where promises hold: in all, what the host can promise
    """

    site: Site
    reach: Reach
    cores: float
    shares: dict[str, float]
    load_cpus: list[int]
    addresses: dict[str, str]
    report: Report

    def part(self, share: float) -> float:
        """Cores: a part of all that the host can promise."""
        return round(share * sum(self.shares.values()), 2)

    @property
    def connections(self) -> int:
        """Requests under way that keep a service busy: its processes get them by chance, and none may be idle."""
        return 4 if self.cores == 1 else 8 * round(self.cores)

    def record(
        self,
        name: str,
        seconds: float,
        asked: dict[str, Ask],
        phases: Sequence[Phase] = (),
        acts: Sequence[tuple[float, str, Callable[[], None]]] = (),
    ) -> Recording:
        """Run a load and change promises under it. WorkFailed when the load or a change fails.

        acts  (when, what is said of it, what is done); the load is as far by then, or a little behind
        """
        self.report(f"{name}: {seconds:.0f} s of load")
        told = {"cpus": self.load_cpus, "seconds": seconds, "streams": {
            service: {"address": self.addresses[service], "path": f"/?rounds={a.rounds}&bytes={a.size}",
                      "connections": self.connections, "phases": list(a.rates)}
            for service, a in asked.items()
        }}  # fmt: skip
        argv = ["python3", "-c", Path(__file__).with_name("load.py").read_text(), json.dumps(told)]
        ahead = self._ahead()
        said: list[str] = []
        changes: list[tuple[float, float, str]] = []
        with self._watching() as looks:

            def run() -> None:
                try:
                    said.append(self.reach.run(argv, timeout=seconds + 60))
                except PhiloxeniaError as cause:
                    failed.append(cause)

            failed: list[PhiloxeniaError] = []
            load = threading.Thread(target=run)
            started = time.time()
            load.start()
            for at, what, act in acts:
                time.sleep(max(0.0, started + at - time.time()))
                begun = time.time()
                act()
                changes.append((begun, time.time() - begun, what))
            load.join()
        if failed:
            raise WorkFailed(f"{name}: the load on the services failed") from failed[0]
        found = json.loads(said[0])
        zero = found["at"] - ahead
        return Recording(
            name, self.reach.host.driver, self.cores, seconds, tuple(phases),
            tuple(Change(round(at - zero, 3), round(took, 3), what) for at, took, what in changes),
            {service: Stream(tuple(s["done"]), tuple((at, n) for at, n in s["bytes"]), s["lost"])
             for service, s in found["streams"].items()},
            {service: _spells(looks, service.lower(), zero) for service in SERVICES},
        )  # fmt: skip

    def promise(
        self, service: str, cpu: tuple[float, float] | None = None, mbit: int | None = None
    ) -> None:
        """What `phx set` does: (guarantee, limit) in cores, a limit of bandwidth in Mbit/s. Raises what it raises."""
        words = [f"cpu.guarantee={cpu[0]:g}", f"cpu.limit={cpu[1]:g}"] if cpu else []
        words += [f"network.limit={mbit}Mbit"] if mbit else []
        whom = renegotiate.addressed(self.site, f"{service.lower()}/edge")
        renegotiate.renegotiate(self.site, whom, asked.asked(words), False, self.report)

    def _ahead(self) -> float:
        """Seconds by which the host's clock is before ours."""
        before = time.time()
        there = float(self.reach.run(["date", "+%s.%N"], timeout=30))
        return there - (before + time.time()) / 2

    @contextlib.contextmanager
    def _watching(self) -> Iterator[list[tuple[float, dict[str, float]]]]:
        """(when, cluster -> cores since the look before), as long as the context is open."""
        looks: list[tuple[float, dict[str, float]]] = []
        over = threading.Event()

        def look() -> None:
            with contextlib.closing(Watch(self.site, set(map(str.lower, SERVICES)))) as watch:
                while not over.wait(LOOK if looks else 0):
                    found = {use.cluster: use.cpu for use in watch.uses()}
                    looks.append((time.time(), found))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield looks
        finally:
            over.set()
            thread.join()


def _spells(
    looks: Sequence[tuple[float, dict[str, float]]], cluster: str, zero: float
) -> tuple[Spell, ...]:
    pairs = pairwise(looks)
    return tuple(
        Spell(round(a - zero, 3), round(b - zero, 3), round(found[cluster], 4))
        for (a, _), (b, found) in pairs
        if cluster in found
    )


@contextlib.contextmanager
def ready(site: Site, host_name: str, folder: Path, report: Report) -> Iterator[Bench]:
    """Both services, up on the host and ready; gone afterwards."""
    host = site.ledger.host(host_name)
    hypervisor = site.connect(host)
    try:
        cores = float(len(cpu_list(host.cpus)) if host.cpus else hypervisor.facts().cores)
    finally:
        hypervisor.close()
    shares = {s: int(host.cpu * n / 30) / 100 for n, s in enumerate(SERVICES, 1)}
    try:
        for service in SERVICES:
            file = folder / f"{service.lower()}.yaml"
            file.write_text(
                _FILE.format(
                    name=service.lower(), service=service, guarantee=shares[service], limit=cores
                )
            )
            launch.up(site, file, host_name, False, report)
        addresses = {s: site.ledger.nodes(s.lower())[0].address for s in SERVICES}
        with contextlib.closing(site.reach(host)) as reach:
            yield Bench(site, reach, cores, shares, _others(host.cpus), addresses, report)
    finally:
        there = {c.name for c in site.ledger.clusters()}
        for service in SERVICES:
            if service.lower() in there:
                launch.down(site, service.lower(), report)


def _others(cpus: str) -> list[int]:
    """CPUs of this machine that are not the guests'; none where the guests may have all."""
    import os

    return sorted(os.sched_getaffinity(0) - cpu_list(cpus)) if cpus else []
