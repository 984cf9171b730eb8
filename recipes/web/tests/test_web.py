"""It serves what is in /srv/www, and its page names the node."""

import pytest


def test_the_configuration_holds(host):
    assert host.service("nginx").is_enabled
    host.check_output("nginx -t")


@pytest.mark.boot
def test_a_peer_gets_its_page(host, peer):
    name = host.check_output("hostname")
    said = peer.check_output(
        f"python3 -c \"import urllib.request as u; print(u.urlopen('http://{name}/').read().decode())\""
    )
    assert f"<title>{name}</title>" in said
