"""It answers whoever has the token, and nobody else."""

import pytest

ASK = (
    "python3 -c \"import urllib.request as u; r = u.Request('http://localhost:8888/api/kernelspecs',"
    ' headers=%s); print(u.urlopen(r).read().decode())"'
)


def test_no_token_is_in_the_image(host):
    assert not host.file("/etc/jupyter/token").exists


def test_a_kernel_is_there(host):
    assert "python3" in host.check_output("HOME=/tmp jupyter kernelspec list --json")


@pytest.mark.boot
def test_the_token_opens_it(host):
    refused = host.run(ASK % "{}")
    assert refused.rc != 0 and "403" in refused.stderr
    token = host.file("/etc/jupyter/token")
    assert token.mode == 0o600 and token.user == "root"
    header = {"Authorization": f"token {token.content_string.strip()}"}
    assert "Python 3" in host.check_output(ASK % header)
