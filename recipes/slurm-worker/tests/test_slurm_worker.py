"""A worker has nothing of a cluster in its image, and takes work when it has joined one."""

import pytest


def test_neither_key_nor_configuration_is_in_the_image(host):
    assert not host.file("/etc/munge/munge.key").exists
    assert not host.file("/etc/slurm/slurm.conf").exists


def test_nothing_starts_before_its_key_is_there(host):
    assert not host.service("slurmd").is_enabled and not host.service("munge").is_enabled


@pytest.mark.boot
def test_the_head_gives_it_work(node):
    assert node("head-1").check_output("srun -w worker-1 hostname") == "worker-1"


@pytest.mark.boot
def test_commands_of_a_user_work_here_too(host):
    assert "idle" in host.check_output("su - user -c 'sinfo -h'")
