"""mpi-primes counts right, on one worker and on two. The cluster of the boot tests is in cluster.yaml."""

import pytest


def test_mpi4py_is_there(host):
    assert host.check_output("python3 -c 'import mpi4py; print(mpi4py.__version__)'")


@pytest.mark.boot
@pytest.mark.parametrize(("below", "primes"), [(3, 1), (100, 25)])
def test_it_counts_on_one(node, below, primes):
    said = node("head-1").check_output("srun -N1 mpi-primes %s", str(below))
    assert said.splitlines()[-1].startswith(f"{primes} primes below {below}, 1 ranks, ")


@pytest.mark.boot
def test_it_counts_on_two_workers(node):
    said = node("head-1").check_output("srun -N2 -n2 mpi-primes 1000000")
    assert said.splitlines()[-1].startswith("78498 primes below 1000000, 2 ranks, ")
    assert {line.split()[3] for line in said.splitlines()[:2]} == {"worker-1", "worker-2"}
