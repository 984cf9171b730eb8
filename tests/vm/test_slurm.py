"""A Slurm cluster from one `phx up`: real jobs, MPI, and a job that lives through every change of the cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.site import Site
from tests.vm.conftest import REPO, Phx, eventually

pytestmark = pytest.mark.vm

NAME = "slurm"
PRIMES = 148_933
"""pi(2,000,000); OEIS A006880 gives the powers of ten around it."""


@pytest.fixture(scope="module")
def slurm(image: Phx, sandbox: str) -> Iterator[Phx]:
    """The shipped example, ready; nothing else was typed."""
    image.run("build", "slurm-head", "mpi", timeout=600)
    image.run("up", REPO / "cluster/examples/slurm.yaml", "--host", sandbox, timeout=400)
    yield image
    image.run("down", NAME, status=None)


def head(phx: Phx, script: str, **more: float) -> str:
    """What a shell of the user who runs jobs prints on the head."""
    return phx.run("ssh", "head-1", "--", f"su - user -c '{script}'", **more).stdout  # type: ignore[arg-type]


def states(phx: Phx) -> dict[str, str]:
    lines = head(phx, 'sinfo -hN -o "%N %t"').splitlines()
    return dict(line.split() for line in lines)  # type: ignore[misc]


def test_a_job_runs_on_both_workers(slurm: Phx) -> None:
    assert sorted(head(slurm, "srun -N2 hostname").split()) == ["worker-1", "worker-2"]


def test_a_batch_job_writes_into_the_shared_home(slurm: Phx) -> None:
    script = 'cd; sbatch --wait -o out.txt --wrap "hostname" >/dev/null; cat out.txt'
    written = head(slurm, script).strip()
    assert written in ("worker-1", "worker-2"), "a worker wrote what the head reads"


def test_an_mpi_program_runs_across_the_workers(slurm: Phx) -> None:
    said = head(slurm, "srun -N2 -n2 mpi-primes 2000000")
    assert f"{PRIMES} primes below 2000000, 2 ranks" in said
    assert {line.split()[3] for line in said.splitlines() if line.startswith("rank")} == {
        "worker-1",
        "worker-2",
    }


def test_the_key_is_the_heads_and_the_workers_and_nowhere_else(slurm: Phx, sandbox: str) -> None:
    keys = {
        node: slurm.run("ssh", node, "--", "od -An -vtx1 /etc/munge/munge.key").stdout.split()
        for node in ("head-1", "worker-1", "worker-2")
    }
    assert keys["head-1"] == keys["worker-1"] == keys["worker-2"]
    key = bytes.fromhex("".join(keys["head-1"]))
    assert len(key) == 128
    folder = Path(Site(slurm.home).ledger.host(sandbox).folder)
    seeds = [p for p in folder.rglob("*seed*") if p.is_file()]
    assert len(seeds) == 3, "one for each node"
    # Its log beside it is gone as soon as nobody has the ledger open.
    for path in (*slurm.home.glob("ledger.sqlite*"), *seeds):
        assert key not in path.read_bytes() and key.hex().encode() not in path.read_bytes()
    found = slurm.json("image", "show", "mpi")
    raw = Path(found["folder"]) / "disk.raw"  # type: ignore[index]
    assert subprocess.run(["grep", "-qaF", "munge.key.new", raw], check=False).returncode == 1
    listed = slurm.run("ssh", "worker-1", "--", "ls -l /etc/munge/munge.key").stdout
    assert listed.startswith("-r-------- 1 munge munge 128")


def test_a_job_runs_through_growing_replacing_and_shrinking(slurm: Phx) -> None:
    job = slurm.start(
        "ssh", "head-1", "--",
        "su - user -c 'srun -w worker-1 sh -c \"hostname; while [ ! -e end ]; do sleep 0.5; done\"'",
    )  # fmt: skip
    eventually("the job runs", lambda: "worker-1" in head(slurm, "squeue -h -t R -o %N"))
    boot = slurm.run("ssh", "worker-1", "--", "cat /proc/sys/kernel/random/boot_id").stdout

    slurm.run("scale", NAME, "worker=3", timeout=200)
    assert head(slurm, "srun -w worker-3 hostname").strip() == "worker-3"
    assert (
        "worker-3"
        in slurm.run("ssh", "worker-1", "--", "cat /etc/hosts /etc/ssh/ssh_known_hosts").stdout
    )

    slurm.run("replace", "worker-2", timeout=200)
    eventually("it is back", lambda: states(slurm).get("worker-2") == "idle", 40)
    assert head(slurm, "srun -w worker-2 hostname").strip() == "worker-2"

    slurm.run("scale", NAME, "worker=2", timeout=200)
    assert set(states(slurm)) == {"worker-1", "worker-2"}
    assert "worker-3" not in slurm.run("ssh", "worker-1", "--", "cat /etc/hosts").stdout
    assert set(slurm.nodes()) == {"head-1", "worker-1", "worker-2"}

    assert "worker-1" in head(slurm, "squeue -h -t R -o %N"), "it ran all the while"
    head(slurm, "touch end")
    out, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    assert out == "worker-1\n"
    assert slurm.run("ssh", "worker-1", "--", "cat /proc/sys/kernel/random/boot_id").stdout == boot


def test_a_leaving_worker_is_drained_first(slurm: Phx) -> None:
    """Its job may end; the events tell that it left before it was removed."""
    job = slurm.start(
        "ssh", "head-1", "--", "su - user -c 'srun -w worker-2 sh -c \"sleep 8; hostname\"'"
    )
    eventually("the job runs", lambda: "worker-2" in head(slurm, "squeue -h -t R -o %N"))
    started = time.monotonic()
    slurm.run("scale", NAME, "worker=1", timeout=200)
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out) == (0, "worker-2\n"), err
    assert time.monotonic() - started > 4, "it waited for the job"
    told = [e["what"] for e in map(json.loads, slurm.run("events", NAME, "--json").stdout.splitlines())
            if e["node"] == "worker-2"]  # fmt: skip
    assert told.index("told to leave") < told.index("removed")
    slurm.run("scale", NAME, "worker=2", timeout=200)
    assert sorted(head(slurm, "srun -N2 hostname").split()) == ["worker-1", "worker-2"]
