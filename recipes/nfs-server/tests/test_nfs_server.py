"""Peers mount what it exports, as root and with the numbers that they have, through one port."""

import pytest


def test_it_waits_for_its_exports(host):
    assert not host.service("nfs-server").is_enabled


@pytest.mark.boot
def test_a_peer_mounts_and_writes(host, peer, parameters):
    given = parameters["nfs_export"]
    source = f"{host.check_output('hostname')}:{given}"
    peer.check_output(
        f"mount -t nfs4 {source} /mnt; echo hello > /mnt/word; chown 1234 /mnt/word; umount /mnt"
    )
    word = host.file(f"{given}/word")
    assert word.content_string == "hello\n" and word.uid == 1234


@pytest.mark.boot
def test_there_is_no_port_mapper(host):
    listening = host.check_output("ss -Hltun | awk '{print $5}'").split()
    ports = {line.rpartition(":")[2] for line in listening}
    assert "2049" in ports and "111" not in ports
