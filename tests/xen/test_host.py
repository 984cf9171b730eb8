"""An emulated Xen host: found running, and described. Real Xen, real libvirt."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.hosts import xenhost
from tests.vm.conftest import ONE, Phx, cluster_text

pytestmark = pytest.mark.xen


def shown(phx: Phx, name: str) -> dict[str, object]:
    found = phx.json("host", "show", name)
    assert isinstance(found, dict)
    return found


def row(phx: Phx, name: str) -> dict[str, object]:
    [found] = [h for h in phx.json("host", "ls") if h["name"] == name]  # type: ignore[attr-defined]
    return found  # type: ignore[no-any-return]


def enter(phx: Phx, name: str, command: str) -> str:
    config = shown(phx, name)["ssh"]
    done = subprocess.run(
        ["ssh", "-F", str(config), name, command], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_said_twice_it_is_found_running(xen_image, xen):
    folder = Path(str(row(xen_image, xen)["folder"]))
    before = xenhost._pid(folder)
    done = xen_image.run("host", "up", "--xen", xen)
    assert f"host '{xen}' runs: xen+ssh://{xen}/system?" in done.stdout
    assert xenhost._pid(folder) == before != 0
    refused = xen_image.run("host", "up", xen, "--memory", "3G", status=2)
    assert "runs, and stays as it is while it does" in refused.stderr


def test_what_it_tells_of_itself(xen_image, xen):
    found = shown(xen_image, xen)
    facts = found["facts"]
    assert isinstance(facts, dict)
    assert (facts["hypervisor"], facts["scheduler"], facts["own"]) == ("xen", "credit2", 500)
    assert facts["modes"] == ["pv", "pvh", "hvm"] and facts["version"].startswith("4.17")
    assert facts["kernel"] == enter(xen_image, xen, "uname -r").strip()
    assert facts["free"] < facts["memory"] <= 5 << 30
    assert found["cpu"] == facts["cores"] * 1000 - 500
    said = xen_image.run("host", "show", xen).stdout
    assert "Xen 4.17" in said and "it is set again after each start" in said


def test_it_is_a_xen_with_one_domain_and_no_way_out(xen_image, xen):
    assert "Domain-0" in enter(xen_image, xen, "xl list")
    assert enter(xen_image, xen, "cat /sys/hypervisor/type").strip() == "xen"
    assert enter(xen_image, xen, "systemctl is-system-running").strip() == "running"
    assert enter(xen_image, xen, "ip route show default") == ""


def test_it_answers_only_who_has_its_key(xen_image, xen, tmp_path):
    text = Path(str(shown(xen_image, xen)["ssh"])).read_text()
    other = tmp_path / "known_hosts"
    other.write_text("")
    changed = tmp_path / "ssh_config"
    lines = [
        f"    UserKnownHostsFile {other}" if "UserKnownHostsFile" in line else line
        for line in text.splitlines() if "Control" not in line
    ]  # fmt: skip
    changed.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["ssh", "-F", str(changed), xen, "true"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 255 and "Host key verification failed" in done.stderr


def test_it_can_be_registered_as_any_other_machine(xen_image, xen):
    """The way to a real Xen machine: an address and an ssh_config that knows it."""
    config, name = shown(xen_image, xen)["ssh"], f"{xen}-far"
    try:
        done = xen_image.run("host", "add", name, f"xen+ssh://{xen}/system", "--ssh-config", config)
        assert f"host '{name}' added: Xen 4.17" in done.stdout
        assert row(xen_image, name)["answers"] is True
        hooks = "ls /etc/libvirt/hooks/libxl.d 2>/dev/null || :"
        assert "/etc/libvirt/hooks/libxl.d/philoxenia-" in done.stdout
        assert enter(xen_image, xen, hooks).startswith("philoxenia-")
        wrong = xen_image.run(
            "host", "add", f"{name}2", f"qemu+ssh://{xen}/system", "--ssh-config", config, status=3
        )
        assert "no libvirt at" in wrong.stderr
        assert not (xen_image.home / "hosts" / f"{name}2").exists()
    finally:
        xen_image.run("host", "down", name, status=None)
    assert enter(xen_image, xen, hooks) == ""
    assert row(xen_image, xen)["answers"] is True, "whoever forgets a machine leaves it alone"


def test_what_a_cluster_requires_is_compared_with_it(xen_image, xen, tmp_path):
    text = cluster_text(
        "picky", ONE.format(image="xen-host"), requires="{hypervisor: qemu, kernel: '>=99'}"
    )
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    said = xen_image.run("plan", file, "--host", xen, status=2).stderr
    assert f"requires.hypervisor: host '{xen}' has Xen 4.17" in said
    assert f"requires.kernel: host '{xen}' has kernel 6." in said and ">=99 is required" in said
