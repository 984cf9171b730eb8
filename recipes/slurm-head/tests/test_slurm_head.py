"""The controller answers and runs a job of a user; the key of a cluster is made in the cluster, not in the image."""

import pytest


def test_no_key_is_in_the_image(host):
    assert not host.file("/etc/munge/munge.key").exists


def test_nothing_starts_before_its_configuration_is_there(host):
    assert not host.service("slurmctld").is_enabled and not host.service("munge").is_enabled


def test_slurm_finds_pmix(host):
    found = host.check_output("readlink -f /usr/lib/x86_64-linux-gnu/pmix2/lib/libpmix.so")
    assert host.file(found).is_file and found.rpartition("/")[2].startswith("libpmix.so.2")


@pytest.mark.boot
def test_it_runs_a_job_of_a_user(host):
    assert host.check_output("su - user -c 'srun hostname'") == "worker-1"


@pytest.mark.boot
def test_srun_can_start_mpi_programs(host):
    assert "pmix" in host.check_output("srun --mpi=list 2>&1")


@pytest.mark.boot
def test_the_key_is_munges_own(host):
    key = host.file("/etc/munge/munge.key")
    assert (key.user, key.mode, key.size) == ("munge", 0o400, 128)
