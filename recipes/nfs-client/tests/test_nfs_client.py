"""What the server gives is mounted before hooks that need it, and holds what is written."""

import pytest


def test_nothing_is_mounted_by_itself(host):
    assert not host.service("nfs-client.target").is_enabled and host.service("rpcbind").is_masked


@pytest.mark.boot
def test_it_is_mounted_and_written(host, parameters):
    mounted = host.mount_point(parameters["nfs_mount"])
    assert mounted.filesystem == "nfs4" and "rw" in mounted.options
    host.check_output(f"cd {parameters['nfs_mount']}; echo a > mine; sync mine; cat mine; rm mine")
