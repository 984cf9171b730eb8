"""It answers with as many bytes as were asked for, and refuses what it does not understand."""

import pytest


def test_it_is_a_service(host):
    assert host.service("edge").is_enabled
    assert host.file("/usr/local/bin/edge").mode == 0o755


@pytest.mark.boot
def test_a_peer_is_answered_as_it_asked(host, peer):
    name = host.check_output("hostname")
    ask = "python3 -c \"import urllib.request as u; print(len(u.urlopen('http://{}/{}').read()))\""
    assert peer.check_output(ask.format(name, "?rounds=10&bytes=1000")) == "1000"
    for wrong in ("?rounds=0", "?rounds=x", "?other=1", "elsewhere"):
        assert peer.run(ask.format(name, wrong)).rc != 0, wrong
