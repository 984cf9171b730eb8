"""What every appliance here has: who may enter, who waits for whom, and no identity. Children are tested so as well."""

import pytest


def test_sshd_lets_nobody_in_by_password(host):
    shown = host.check_output(
        "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /tmp/k; sshd -T -h /tmp/k"
    )
    assert "passwordauthentication no" in shown.splitlines()
    assert "permitrootlogin without-password" in shown.splitlines()


def test_the_agent_starts_before_sshd(host):
    assert host.service("philoxenia-agent").is_enabled and host.service("ssh").is_enabled
    before = host.file("/etc/systemd/system/philoxenia-agent.service").content_string
    assert "Before=network-pre.target ssh.service" in before


@pytest.mark.parametrize(
    "path", ["/usr/lib/philoxenia/agent.py", "/etc/ssh/sshd_config.d/philoxenia.conf"]
)
def test_only_root_writes(host, path):
    file = host.file(path)
    assert file.user == file.group == "root" and not file.mode & 0o022


def test_the_image_has_no_identity(host):
    assert host.file("/etc/machine-id").content_string == ""
    assert host.run("ls /etc/ssh/ssh_host_*").rc != 0


def test_nobody_has_a_password(host):
    shadow = host.file("/etc/shadow").content_string
    assert {line.split(":")[1] for line in shadow.splitlines()} <= {"*", "!", "!*"}


def test_every_package_is_configured(host):
    assert host.check_output("dpkg --audit") == ""


@pytest.mark.boot
def test_nothing_failed_at_boot(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


@pytest.mark.boot
def test_it_knows_its_own_name(host):
    name = host.check_output("hostname")
    assert host.addr(name).is_resolvable and host.file("/etc/machine-id").size == 33


@pytest.mark.boot
def test_a_peer_reaches_it_by_name(host, peer):
    assert peer.addr(host.check_output("hostname")).port(22).is_reachable
