"""Appliances that others made join a cluster: a cloud image with cloud-init and nothing of ours, and one whose scripts
were written for the Nimbus context agent.
"""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft4Validator

from builder.packages import facts
from builder.packages.apt import Apt, file_name
from builder.packages.unpack import tar_in
from cluster.hosts import store
from cluster.hosts.host import QEMU_UID
from cluster.site import Site
from contextualize import cloudinit, seed
from contextualize.identity import derive
from tests.test_context import document, member_of
from tests.vm.conftest import REPO, Phx, cluster_text

pytestmark = pytest.mark.vm

NAME = "mixed"
DEVICES = "[virtio_pci, virtio_blk, virtio_net, virtio_console, virtio-rng, isofs]"
RECIPES = {
    # cloud-init comes in a layer of its own: its locales want an awk that is configured already.
    "bare": f"""suite: bookworm
kernel: {{package: linux-image-cloud-amd64, modules: {DEVICES}, cmdline: net.ifnames=0 random.trust_cpu=on}}
size: 1G
packages: [usr-is-merged, systemd-sysv, udev, kmod, busybox-static, e2fsprogs, iproute2, netbase, openssh-server, dbus]
""",
    # As Debian's genericcloud image: cloud-init, netplan and networkd as their packages leave them.
    "cloudy": """from: bare
packages: [cloud-init, cloud-guest-utils, netplan.io, sudo]
files:
  # Without it, version 22.4 sets a locale that nobody has generated, and says so as an error.
  - {path: /etc/cloud/cloud.cfg.d/10_locale.cfg, content: "locale: C.UTF-8\\n"}
services: {enable: [systemd-networkd.service, ssh.service]}
""",
    "torque": "from: nimbus\nfiles:\n" + "".join(
        f"  - path: /opt/nimbus/ctx-scripts/{script}\n    mode: 0755\n"
        f"    content: '#!/bin/sh\n\n      echo {script} $* >> /var/log/ctx'\n"
        for script in ("1-ipandhost/pbs", "2-thishost/publicnic", "3-data/motd", "4-restarts/pbs")
    ),
}  # fmt: skip
ROLES = r"""  head:
    image: torque
    cpu: {guarantee: 0.3, limit: 1}
    memory: 256M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    ssh_to: [cloud]
    context:
      provides:
        - {name: farm_key, command: "printf 'not a \\377 text'", secret: true, to: [cloud], early: true}
      requires: [{fact: greeting, before: healthy}]
      files: [{path: /etc/greeting, content: "{{ facts.greeting }}"}]
  cloud:
    image: cloudy
    cpu: {guarantee: 0.5, limit: 1}
    memory: 512M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    context:
      requires: [{fact: farm_key}]
      provides: [{name: greeting}]
      files:
        - {path: /etc/farm/key, fact: farm_key, mode: 0400}
        - path: /etc/philoxenia/hooks.d/50-greets
          mode: 0755
          content: |
            #!/bin/sh -e
            # The image knows nothing of us: its hook comes with the cluster file.
            test -s /etc/farm/key
            echo "$PHX_NODE at $PHX_ADDRESS greets {{ roles.head[0].name }}" > $PHX_PROVIDE/greeting
"""


def cluster_file(folder: Path, motd: str = "hello") -> Path:
    file = folder / "mixed.yaml"
    data = f"{{motd: {motd}, nimbus_roles: cloud pbs}}"
    file.write_text(cluster_text(NAME, ROLES, network="10.83.0.0/24", deadline="4m", data=data))
    return file


@pytest.fixture(scope="module")
def mixed(image: Phx, sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phx]:
    """One node of ours and one of theirs, ready."""
    folder = tmp_path_factory.mktemp("foreign")
    for shipped in ("base", "nimbus"):
        (folder / shipped).symlink_to(REPO / "recipes" / shipped)
    for name, text in RECIPES.items():
        (folder / name).mkdir()
        head = f"name: {name}\nversion: '12'\nsummary: for a test\n"
        (folder / name / "recipe.yaml").write_text(head + text)
    Phx(image.home, folder).run("build", "cloudy", "torque", timeout=600)
    image.run("up", cluster_file(folder), "--host", sandbox)
    yield image
    image.run("down", NAME, status=None)


def ssh(phx: Phx, node: str, command: str) -> str:
    return phx.run("ssh", f"{NAME}/{node}", "--", command, timeout=90).stdout


def test_it_gives_and_gets_facts_and_runs_its_hook(mixed: Phx) -> None:
    assert {n["stage"] for n in mixed.nodes().values()} == {"ready"}
    assert mixed.json("image", "show", "cloudy")["contextualization"] == "cloud-init"  # type: ignore[index]
    assert ssh(mixed, "head-1", "cat /etc/greeting") == "cloud-1 at 10.83.0.2 greets head-1\n"
    said = ssh(mixed, "cloud-1", "stat -c %a:%U /etc/farm/key; od -An -c /etc/farm/key")
    owned, _, key = said.partition("\n")
    assert (owned, "".join(key.split())) == ("400:root", r"nota377text")


def test_cloud_init_read_who_it_is_and_its_keys(mixed: Phx) -> None:
    """Its exit status says nothing in 22.4: its own result and what it knows of the instance do."""
    asked = (
        "cat /run/cloud-init/result.json", "cat /run/cloud-init/instance-data-sensitive.json",
        "hostname; cat /etc/machine-id", "cat /var/log/cloud-init*.log; journalctl --no-pager",
        "cat /etc/ssh/ssh_host_*_key", "cat /etc/netplan/*.yaml",
    )  # fmt: skip
    said = ssh(mixed, "cloud-1", "; echo ==8==; ".join(asked)).split("==8==\n")
    result, known = map(json.loads, said[:2])
    assert result["v1"]["errors"] == []
    assert result["v1"]["datasource"].startswith("DataSourceNoCloud")
    identity = derive(Site(mixed.home).ledger.cluster(NAME).secret, NAME, "cloud-1")
    told = known["ds"]["meta_data"]
    assert told["local-hostname"] == known["v1"]["local_hostname"] == "cloud-1"
    assert told["instance-id"] == f"{NAME}-cloud-1-{identity.machine_id}"
    assert said[2].split() == ["cloud-1", identity.machine_id]
    assert "PRIVATE KEY" not in said[3] and identity.token.reveal().decode() not in said[3]
    assert said[4] == identity.host_key.private.reveal().decode(), "and no other host key"
    assert "10.83.0.2/24" in said[5]
    assert ssh(mixed, "head-1", "ssh -o BatchMode=yes cloud-1 hostname") == "cloud-1\n"


def test_its_seed_is_valid_to_its_own_cloud_init(mixed: Phx) -> None:
    said = ssh(mixed, "cloud-1", "cloud-init schema --system 2>&1")
    assert "Valid cloud-config: system userdata" in said


def test_its_seed_is_for_the_hypervisor_alone(mixed: Phx, sandbox: str) -> None:
    host = Site(mixed.home).ledger.host(sandbox)
    there = host.outside(store.seed(NAME, "cloud-1")).stat()
    assert stat.S_IMODE(there.st_mode) == 0o400 and there.st_uid == QEMU_UID


JOINED = """1-ipandhost/pbs 10.83.0.2 cloud-1 cloud-1.mixed
2-thishost/publicnic 10.83.0.1 head-1 head-1.mixed
3-data/motd /run/philoxenia/context/data/motd
4-restarts/pbs
"""


def test_scripts_for_nimbus_run_at_a_join_and_after_a_change(mixed: Phx, tmp_path: Path) -> None:
    """The head was contextualized before it knew the greeting: that change had nothing to say to its scripts."""
    assert ssh(mixed, "head-1", "cat /var/log/ctx") == JOINED
    mixed.run("recontext", cluster_file(tmp_path, "good bye"))
    assert (
        ssh(mixed, "head-1", "cat /var/log/ctx").removeprefix(JOINED) == JOINED.splitlines(True)[2]
    )
    told = [e["what"] for e in events(mixed) if e["node"] == "head-1"]
    assert [w for w in told if w.startswith("hook /etc/philoxenia/hooks.d/50-nimbus: exit 0, ")]


def events(phx: Phx) -> list[dict[str, str]]:
    lines = phx.run("events", NAME, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_it_comes_back_after_its_machine_stopped(mixed: Phx, sandbox: str, tmp_path: Path) -> None:
    """cloud-init does nothing a second time; the agent that it brought starts by itself."""
    uri = f"qemu+unix:///system?socket=/run/philoxenia/{sandbox}/libvirt-sock"
    subprocess.run(["virsh", "-q", "-c", uri, "destroy", f"{NAME}.cloud-1"], check=True)
    said = mixed.run("up", cluster_file(tmp_path, "good bye"))
    assert "cloud-1 started again (it was off)" in said.stderr
    assert "cloud-1 ready" in said.stderr
    assert ssh(mixed, "cloud-1", "uptime -s | wc -l; cat /etc/hosts").count("mixed") == 2


def test_our_seeds_are_valid_to_a_newer_cloud_init(home: Path) -> None:
    """cloud-init 22.4 has no schema of network-config version 2: Debian 13's version has, and one of user-data."""
    folder = home / "trixie"
    sources = facts.sources("bookworm").replace("bookworm", "trixie")
    (folder / "apt").mkdir(parents=True, exist_ok=True)
    apt = Apt(folder / "apt", folder / "debs", sources, folder / "log")
    with apt.alone(print):
        apt.update()
        locked, _ = apt.resolve(["cloud-init"], "")
    package = next(p for p in locked if p.name == "cloud-init")
    apt.fetch([package], print)
    data = tar_in((folder / "debs" / file_name(package)).read_bytes(), "data.tar")
    told = cloudinit.cloud_init("demo", member_of("head-1"), document("head-1"), seed.agent())
    for name, kind in (("user-data", "cloud-config-v1"), ("network-config", "network-config-v2")):
        path = f"./usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-{kind}.json"
        file = data.extractfile(path)
        assert file is not None
        schema = Draft4Validator(json.load(file))
        ours = json.loads(told[name].removeprefix("#cloud-config\n"))
        assert [e.message for e in schema.iter_errors(ours)] == []
        wrong = {**ours, "write_files": 1, "version": "two"}
        assert not schema.is_valid(wrong), "it does look"
