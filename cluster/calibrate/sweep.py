"""The sweep: two guests, one of which gets less CPU step by step, while what comes through and what it costs are read
from the host's counters.
"""

from __future__ import annotations

import datetime
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from builder.errors import InputError, Problem, WorkFailed
from builder.plan import Report
from builder.run import run
from builder.units import show_rate
from cluster import domain, launch
from cluster.calibrate.curve import DIRECTIONS, Calibration, Direction, Point
from cluster.guarantee import Guarantee, settings
from cluster.hosts.host import Host
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.metering.usage import Usage
from cluster.site import Site

CLUSTER = "calibration"
IMAGE = "base"
STEPS = (1000, 700, 500, 300, 200, 100, 50)
"""Thousandths of a core, largest first: a connection survives cuts better than it starts under one."""
SETTLE, MEASURE = 1.5, 3.0
"""Seconds before and during which a step is measured; 100 ms are one period of the cap."""
PORT = 7000
TEXT = """\
cluster: {cluster}
host: {host}
roles:
  wire:
    count: 2
    image: {image}
    cpu: {{guarantee: 0.2, limit: 1}}
    memory: 256M
    network: {{guarantee: 1Mbit, limit: {limit}}}
"""
_HEAR = """import socket
s = socket.create_server(("", {port}))
b = bytearray(1 << 20)
while True:
    c, _ = s.accept()
    while c.recv_into(b): pass"""
_SAY = """import socket
c = socket.create_connection(("{to}", {port}), 30)
c.settimeout(None)
b = bytes(1 << 20)
while True: c.sendall(b)"""


def calibrate(site: Site, host: Host, report: Report) -> Calibration:
    """Measure a host with two guests of its own, which are gone afterwards. About two minutes under emulation.

    Raises InputError if `base` was not built, WorkFailed if nothing came through, and what a launch raises.
    """
    if CLUSTER in {c.name for c in site.ledger.clusters()}:
        launch.down(site, CLUSTER, report)  # of a sweep that was cut off
    with _pair(site, host, report) as (first, second):
        hypervisor, reach = site.connect(host), site.reach(host)
        try:
            host = site.ledger.host(host.name)  # with its accelerator, which the launch found out
            bench = _Bench(site, host, hypervisor, reach)
            if others := bench.others():
                report(f"{', '.join(others)} run here as well: the curve may be too low")
            idle = bench.step(first, STEPS[0]).used
            sweeps: dict[Direction, tuple[Point, ...]] = {}
            for direction in DIRECTIONS:
                ways = (first, second) if direction == "out" else (second, first)
                with bench.traffic(*ways):
                    sweeps[direction] = tuple(bench.sweep(first, direction, report))
        finally:
            hypervisor.close()
            reach.close()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = Calibration(now, host.accelerator, idle, sweeps)
    for direction in sweeps:
        try:
            found.curve(direction)
        except ValueError as cause:
            raise WorkFailed(f"the sweep of host '{host.name}', {direction}: {cause}") from None
    return found


@contextmanager
def _pair(site: Site, host: Host, report: Report) -> Iterator[tuple[str, str]]:
    """Two ready nodes on the host, taken down however it ends."""
    try:
        site.catalog.get(IMAGE)
    except InputError:
        what = "two guests of the image 'base' are needed, and it was not built"
        raise InputError(Problem("", what, "phx build base")) from None
    with tempfile.TemporaryDirectory(prefix="phx-calibrate-") as folder:
        file = Path(folder) / "calibration.yaml"
        # Beyond what the host promises, so that its promise is not what is measured.
        limit = show_rate(4 * host.network // 1000 * 1000)
        file.write_text(TEXT.format(cluster=CLUSTER, host=host.name, image=IMAGE, limit=limit))
        try:
            launch.up(site, file, host.name, False, report)
            yield "wire-1", "wire-2"
        finally:
            if CLUSTER in {c.name for c in site.ledger.clusters()}:
                launch.down(site, CLUSTER, report)


class _Bench:
    """Two guests under measurement."""

    def __init__(self, site: Site, host: Host, hypervisor: Hypervisor, reach: Reach) -> None:
        self.host, self.hypervisor, self.reach = host, hypervisor, reach
        self.config = site.files(CLUSTER) / "ssh_config"
        self.addresses = {n.name: n.address for n in site.ledger.nodes(CLUSTER)}
        self.given: dict[str, Guarantee] = {
            s.mark.node: s.mark.guarantee for s in hypervisor.observe() if s.mark.cluster == CLUSTER
        }

    def others(self) -> list[str]:
        """Clusters with guests that run on the host beside ours."""
        seen = (s for s in self.hypervisor.observe() if s.state == "running")
        return sorted({s.mark.cluster for s in seen} - {CLUSTER})

    @contextmanager
    def traffic(self, sender: str, receiver: str) -> Iterator[None]:
        """As much as comes through, from one to the other, by TCP."""
        self._limit(sender, STEPS[0])
        self._limit(receiver, STEPS[0])
        self._start(receiver, "hear", _HEAR.format(port=PORT))
        try:
            self._start(sender, "say", _SAY.format(to=self.addresses[receiver], port=PORT))
            yield
        finally:
            for node, unit in ((sender, "say"), (receiver, "hear")):
                self._limit(node, STEPS[0])
                self._ssh(node, "systemctl", "stop", f"phx-{unit}")

    def sweep(self, node: str, direction: Direction, report: Report) -> Iterator[Point]:
        for cap in STEPS:
            point = self.step(node, cap, direction)
            report(
                f"{direction} with {cap / 1000:g} cores: {point.bits / 1e6:.0f} Mbit/s, {point.used / 1000:g} used"
            )
            yield point

    def step(self, node: str, cap: int, direction: Direction = "out") -> Point:
        """What comes through in one direction, as the guest sees it, while it may use so many thousandths of a core."""
        self._limit(node, cap)
        time.sleep(SETTLE)
        began, before, softly = time.monotonic(), self._usage(node), self._softly()
        time.sleep(MEASURE)
        ended, after, softly2 = time.monotonic(), self._usage(node), self._softly()
        seconds = ended - began

        def rate(one: int | None, other: int | None) -> float | None:
            return None if one is None or other is None else (other - one) / seconds

        counter = "sent" if direction == "out" else "received"
        moved = rate(getattr(before, counter), getattr(after, counter))
        if moved is None:
            raise WorkFailed(f"host '{self.host.name}' does not count what its guests send")
        used = (after.cpu - before.cpu) / seconds / 1e6
        own = rate(before.guest, after.guest)
        kernel = (softly2 - softly) / seconds * 10
        outside = None if own is None else round(max(0.0, used - own / 1e6) + kernel)
        return Point(cap, round(used), outside, round(moved * 8))

    def _usage(self, node: str) -> Usage:
        name = domain.name(CLUSTER, node)
        found = next((u for u in self.hypervisor.usage() if u.name == name), None)
        if found is None:
            raise WorkFailed(f"{node} ended while it was measured")
        return found

    def _softly(self) -> int:
        """Hundredths of a second that the host's CPUs spent in softirqs, where packets are passed on (proc(5))."""
        return int(self.reach.run(["head", "-n1", "/proc/stat"], timeout=30).split()[7])

    def _limit(self, node: str, cap: int) -> None:
        given = replace(self.given[node], cpu_guarantee=min(cap, 100), cpu_limit=cap)
        cpu = settings(given, self.host.driver, self.host.cgroup, self.host.cpu)[0]
        self.hypervisor.tune(domain.name(CLUSTER, node), cpu)

    def _start(self, node: str, unit: str, script: str) -> None:
        runs = ("systemd-run", "--quiet", "--collect", f"--unit=phx-{unit}")
        self._ssh(node, *runs, "python3", "-c", script)

    def _ssh(self, node: str, *words: str) -> None:
        argv = ["ssh", "-F", str(self.config), node, shlex.join(words)]
        run(argv, timeout=60)


def table(found: Calibration) -> Sequence[tuple[str, ...]]:
    """Rows (direction, cap, used, outside of the guest, bandwidth) for people."""
    return [
        (direction, f"{p.cap / 1000:g}", f"{p.used / 1000:g}", "-" if p.host is None else f"{p.host / 1000:g}",
         f"{p.bits / 1e6:.0f} Mbit/s")
        for direction, points in found.sweeps.items() for p in points
    ]  # fmt: skip
