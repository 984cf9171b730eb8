"""Promises of guests that run: changed live and measured in the guests, taken back whole, finished after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.hosts.sandbox import pids
from cluster.site import Site
from tests.vm.conftest import Phx, cluster_text, eventually
from tests.vm.test_cluster import _rate

pytestmark = pytest.mark.vm

NAME = "deal"
ROLES = """  one:
    count: 2
    image: base
    cpu: {guarantee: 0.1, limit: 0.6}
    memory: {min: 224M, max: 320M}
    network: {guarantee: 1Mbit, limit: 4Mbit}
    negotiable: {cpu.limit: 0.2..0.5, network.limit: ..8Mbit}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(NAME) / f"{NAME}.yaml"
    path.write_text(cluster_text(NAME, ROLES, network="10.84.0.0/24"))
    return path


@pytest.fixture(scope="module")
def ready(image: Phx, sandbox: str, file: Path) -> Iterator[Phx]:
    image.run("up", file, "--host", sandbox)
    yield image
    image.run("down", NAME, status=None)


def in_force(phx: Phx, status: int = 0) -> dict[tuple[str, str], dict[str, str]]:
    said = phx.run("guarantees", NAME, "--json", status=status).stdout
    return {(line["node"], line["resource"]): line for line in json.loads(said)}


def cores(phx: Phx, sandbox: str, node: str, seconds: float) -> float:
    """What a node and its emulator use."""
    site = Site(phx.home)
    hypervisor = site.connect(site.ledger.host(sandbox))
    try:
        at, used = [], []
        for _ in range(2):
            at.append(time.monotonic())
            used.append(next(u.cpu for u in hypervisor.usage() if u.mark.node == node))
            time.sleep(seconds if len(at) == 1 else 0)
    finally:
        hypervisor.close()
        site.ledger.close()
    return (used[1] - used[0]) / 1e9 / (at[1] - at[0])


def test_cpu_of_a_guest_that_runs_is_another_at_once(ready: Phx, sandbox: str) -> None:
    busy = ready.start("ssh", "one-1", "--", "timeout 20 sh -c 'while :; do :; done'")
    try:
        time.sleep(1)
        before = cores(ready, sandbox, "one-1", 3)
        ready.run("set", f"{NAME}/one-1", "cpu.limit=0.15")
        after = cores(ready, sandbox, "one-1", 3)
    finally:
        busy.kill()
        busy.communicate()
    assert before <= 0.6 * 1.15 and after <= 0.15 * 1.3, "the limit is not passed"
    assert before > 2 * after, (before, after)
    line = in_force(ready)["one-1", "cpu"]
    assert line["measured"].endswith("quota 15000/100000 us") and line["asked"] == "0.1..0.6 cores"
    ready.run("set", f"{NAME}/one-1", "cpu.limit=0.6")


def test_bandwidth_of_guests_that_run_is_another_at_once(ready: Phx) -> None:
    before = _rate(ready, "one-1", "one-2", megabytes=1)
    ready.run("set", f"{NAME}/one", "network.limit=16Mbit")
    after = _rate(ready, "one-1", "one-2", megabytes=4)
    assert before <= 4_000_000 * 1.1 and after <= 16_000_000 * 1.1, "the limit is not passed"
    assert after > 2 * before, (before, after)
    ready.run("set", f"{NAME}/one", "network.limit=4Mbit")


def total(phx: Phx, node: str) -> int:
    """MiB that the guest's kernel has."""
    return int(phx.run("ssh", node, "--", "free -m").stdout.splitlines()[1].split()[1])


def test_memory_grows_and_is_given_back_while_it_runs(ready: Phx) -> None:
    small = total(ready, "one-1")
    ready.run("set", f"{NAME}/one-1", "memory.min=320M")
    assert total(ready, "one-1") >= small + 90
    ready.run("set", f"{NAME}/one-1", "memory.min=224M")
    assert abs(total(ready, "one-1") - small) <= 2
    said = ready.run("set", f"{NAME}/one-1", "memory=512M", status=2).stderr
    assert "needs restart: memory.max is 512M, it booted with 320M" in said


def test_one_thing_that_cannot_be_and_all_of_it_is_as_it_was(ready: Phx) -> None:
    """The guests use more memory than they would keep: their bandwidth had been changed by then."""
    before = in_force(ready)
    said = ready.run(
        "set", f"{NAME}/one", "network.limit=32Mbit", "cpu.limit=0.3", "memory.min=24M", status=1
    )
    assert "one-1 cannot have it; everything is as it was" in said.stderr
    assert "one-1 is asked to give back 200M, and could do without" in said.stderr
    assert in_force(ready) == before
    assert ready.run("ssh", "one-1", "--", "hostname").stdout == "one-1\n", "and lives"


def test_a_scheduled_change_is_made_at_its_time_once_by_one_of_two(ready: Phx) -> None:
    told = ready.run("set", f"{NAME}/one", "network.limit=9Mbit", "--at", "+4s", "--json").stdout
    number = json.loads(told)["number"]
    assert in_force(ready)["one-1", "network in"]["granted"] != "1Mbit..9Mbit", "not yet"
    tickers = [ready.start("tick", "--every", "1s") for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        ended: list[dict[str, str]] = []
        while not ended and time.monotonic() < deadline:
            time.sleep(1)
            listed = json.loads(ready.run("scheduled", NAME, "--all", "--json").stdout)
            ended = [c for c in listed if c["number"] == number and c["state"] != "waiting"]
    finally:
        for ticker in tickers:
            ticker.terminate()
        said = "".join(ticker.communicate()[1] for ticker in tickers)
    assert [c["state"] for c in ended] == ["done"]
    assert said.count(f"scheduled change {number} (network.limit=9Mbit) done") == 1
    found = in_force(ready)
    assert {found[n, "network in"]["measured"] for n in ("one-1", "one-2")} == {"1Mbit..9Mbit"}


def test_a_guest_asks_from_inside_and_has_it_within_its_owners_limits(ready: Phx) -> None:
    ticker = ready.start("tick", "--every", "1s")
    try:
        asked = ("ssh", "one-2", "--", "phx-ask")
        said = ready.run(*asked, "cpu.limit=0.9", status=1).stderr
        assert "cpu.limit: is outside the limits" in said and "cpu.limit 0.2..0.5" in said
        time.sleep(11)  # who asks again sooner is told to wait
        said = ready.run(*asked, "cpu.limit=0.4", "network.limit=7Mbit").stdout
    finally:
        ticker.terminate()
        told = ticker.communicate()[0]
    assert "network.in.limit" in said and "-> 7Mbit" in said and "left" in said
    assert "granted" in told and "refused" in told
    found = in_force(ready)
    assert found["one-2", "cpu"]["measured"].endswith("quota 40000/100000 us")
    assert found["one-2", "network in"]["measured"] == "1Mbit..7Mbit"
    assert found["one-1", "network in"]["granted"] != "1Mbit..7Mbit", "for itself alone"
    assert [r["granted"] for r in found["one-2", "cpu"]["requests"]] == [False, True]  # type: ignore[index]
    # Both are alike again, and have no number that the next test asks for.
    ready.run("set", f"{NAME}/one", "cpu.limit=0.25", "network.limit=4Mbit")


def test_killed_in_the_middle_it_is_all_or_nothing(ready: Phx, file: Path) -> None:
    seen = set()
    for n, delay in enumerate((0.45, 0.55, 0.65, 0.75, 0.9)):
        limit = f"{5 + n}Mbit"
        process = ready.start(
            "set", f"{NAME}/one", f"network.limit={limit}", f"cpu.limit=0.{3 + n}"
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ready.run("up", file)
        found = in_force(ready)
        states = {
            (found[node, "network in"]["granted"], found[node, "cpu"]["granted"])
            for node in ("one-1", "one-2")
        }
        assert len(states) == 1, "both nodes, both numbers"
        ((network, cpu),) = states
        assert network.endswith(f"..{limit}") is (cpu == f"0.1..0.{3 + n} cores")
        seen.add(network)
    assert seen


def test_libvirtd_killed_what_was_agreed_is_held_by_the_kernel_and_can_be_changed(
    ready: Phx, sandbox: str
) -> None:
    ready.run("set", f"{NAME}/one", "cpu.limit=0.35", "network.limit=6Mbit", "disk.throughput=5M/s")
    held = in_force(ready)
    daemon = libvirtd(sandbox)
    os.kill(daemon, signal.SIGKILL)
    eventually("the warden starts another", lambda: libvirtd(sandbox) not in (0, daemon), 30)
    quotas = {p.read_text().strip() for p in quota_files(sandbox)}
    assert quotas == {"35000"}, "no quota was lost with the daemon that had set it"
    assert in_force(ready) == held and all(line["ok"] is not False for line in held.values())
    assert "all is as promised" in ready.run("verify", NAME).stdout
    ready.run("set", f"{NAME}/one", "cpu.limit=0.6", "disk.throughput=none")
    assert {p.read_text().strip() for p in quota_files(sandbox)} == {"60000"}
    assert in_force(ready)["one-1", "network in"]["measured"] == "1Mbit..6Mbit"


def test_a_role_is_pinned_while_it_runs_and_not_let_go_by_surprise(
    ready: Phx, sandbox: str, file: Path, tmp_path: Path
) -> None:
    everywhere, cpu = affinity(sandbox), min(os.sched_getaffinity(0))
    pinned = tmp_path / "pinned.yaml"
    pinned.write_text(file.read_text().replace("limit: 0.6}", f"limit: 0.6, pin: {cpu}}}"))
    assert f"cpu.pin: {cpu}" in ready.run("plan", pinned).stdout
    assert f"one-2 stays on CPUs {cpu} of its host" in ready.run("up", pinned).stderr
    assert affinity(sandbox) == {str(cpu)} != everywhere
    assert "no changes" in ready.run("up", pinned).stdout
    assert "all is as promised" in ready.run("verify", NAME).stdout
    said = ready.run("up", file, status=2).stderr
    assert f"it is pinned to CPUs {cpu}, and let go at a start only" in said
    assert affinity(sandbox) == {str(cpu)}


def affinity(sandbox: str) -> set[str]:
    """The CPUs that any thread of the guests' QEMUs may run on, as the kernel says."""
    found = set()
    for pid in pids(sandbox):
        with contextlib.suppress(OSError):
            if f"guest={NAME}." in Path(f"/proc/{pid}/cmdline").read_text():
                for status in Path(f"/proc/{pid}/task").glob("*/status"):
                    lines = status.read_text().splitlines()
                    found |= {x.split()[1] for x in lines if x.startswith("Cpus_allowed_list")}
    return found


def libvirtd(sandbox: str) -> int:
    """The process of the sandbox's libvirtd; 0 while there is none."""
    for pid in pids(sandbox):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "libvirtd":
                return pid
    return 0


def quota_files(sandbox: str) -> list[Path]:
    """The kernel's own word for the limit of each guest, its emulator included."""
    found = [
        path
        for path in Path("/sys/fs/cgroup").rglob(f"*{NAME}*/cpu.cfs_quota_us")
        if f"phx-{sandbox}" in str(path)
    ]
    assert len(found) == 2, found
    return found
