"""count-primes counts right, and spreads over nodes. The cluster of the boot tests is in cluster.yaml."""

import pytest


def test_count_primes_is_a_program_of_roots(host):
    program = host.file("/usr/local/bin/count-primes")
    assert program.mode == 0o755 and program.user == "root"


@pytest.mark.parametrize(("below", "primes"), [(2, 0), (3, 1), (100, 25), (100_000, 9592)])
def test_it_counts(host, below, primes):
    assert host.check_output("count-primes --part 0 %s", str(below)).split()[-1] == str(primes)


@pytest.mark.boot
def test_it_spreads_over_nodes(node):
    said = node("head-1").check_output("count-primes 100000 worker-1 worker-2")
    assert said.splitlines()[-1].startswith("9592 primes below 100000, 2 nodes, ")
