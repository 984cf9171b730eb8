"""It gives what the server gives, from its memory the second time, and also while the server is away."""

import pytest

GET = (
    "python3 -c \"import urllib.request as u; r = u.urlopen('http://{}:3128/');"
    " print(r.headers['X-Cache'], r.read().decode())\""
)


def test_it_waits_for_its_configuration(host):
    assert not host.service("squid").is_enabled


@pytest.mark.boot
def test_the_second_answer_comes_from_memory(host, peer):
    name = host.check_output("hostname")
    first, second = (peer.check_output(GET.format(name)) for _ in range(2))
    assert first.startswith("MISS from ") and second.startswith("HIT from ")
    assert first.split("\n", 1)[1:] == second.split("\n", 1)[1:]


@pytest.mark.boot
def test_what_it_holds_is_given_while_the_server_is_away(node):
    ask = GET.format("cache-1")
    node("web-1").check_output(ask)
    node("web-1").check_output("systemctl stop nginx")
    try:
        said = node("web-1").check_output(ask)
        assert said.startswith("HIT from ") and "<title>web-1</title>" in said
    finally:
        node("web-1").check_output("systemctl start nginx")


@pytest.mark.boot
def test_its_memory_is_a_part_of_the_nodes(host):
    assert "cache_mem 102 MB" in host.file("/etc/squid/squid.conf").content_string
