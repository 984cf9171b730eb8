"""An emulated Xen host as values: its command line, the ways to it, its facts from the real driver's own answers."""

from __future__ import annotations

import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from builder.errors import EnvironmentLacks, InputError, explain
from builder.images.catalog import Catalog
from cluster.guarantee import CORE
from cluster.hosts import registry, ssh, xenhost
from cluster.hosts.emulated import Emulated, argv
from cluster.hosts.facts import HostFacts, facts_of, modes, room
from cluster.site import Site
from contextualize.identity import derive
from tests.invented import IMAGE, SECRET
from tests.xen.record import recorded

MACHINE = Emulated(
    "far", "/nonexistent/a,b/hosts/far", "/run/philoxenia/far-1f1f1f1f", IMAGE.id, 4 << 30, 2, 20 << 30, 2222, "qemu"
)  # fmt: skip
DOM0 = replace(IMAGE, hypervisor="dom0_mem=1G,max:1G sched=credit2")
IDENTITY = derive(SECRET, "host", "far")


def test_the_command_line(golden):
    golden("xen/qemu.txt", "\n".join(argv(MACHINE, DOM0, IDENTITY)) + "\n")


def test_hardware_virtualization_shows_its_own_processor():
    words = argv(replace(MACHINE, accelerator="kvm"), DOM0, IDENTITY)
    assert words[words.index("-accel") + 1] == "kvm" and words[words.index("-cpu") + 1] == "host"


def test_a_comma_in_a_path_or_an_option_is_no_end():
    text = " ".join(argv(MACHINE, DOM0, IDENTITY))
    assert "file=/nonexistent/a,,b/hosts/far/disk.qcow2,format" in text
    assert "dom0_mem=1G,max:1G" in text, "Xen's options are one argument"
    named = replace(DOM0, cmdline="ip=a,b")
    assert " ip=a,,b " in " ".join(argv(MACHINE, named, IDENTITY)), "modules stand in a list"


def test_the_way_to_it(golden):
    told = ssh.emulated("far", 2222, Path("/a home/hosts/far"), Path("/run/philoxenia/far/ssh"))
    golden("xen/ssh_config", told)
    assert ssh.known(2222, "ssh-ed25519 AAAA") == "[127.0.0.1]:2222 ssh-ed25519 AAAA\n"


def test_libvirts_address_names_the_program_and_asks_nothing():
    uri = ssh.uri("xen", "far", Path("/a home/hosts/far"))
    assert uri == "xen+ssh://far/system?command=/a%20home/hosts/far/ssh&no_tty=1"


def test_the_program_is_openssh_with_that_file(tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    path = ssh.write(folder, "Host far\n")
    quoted = str(path).replace("'", "'\"'\"'")
    assert (folder / "ssh").read_text() == f"#!/bin/sh\nexec ssh -F '{quoted}' \"$@\"\n"
    assert (folder / "ssh").stat().st_mode & 0o777 == 0o755


def test_a_users_own_way_is_kept_without_what_only_concerns_the_user():
    told = "host m\nuser root\nhostname 192.0.2.7\nproxyjump gate\nidentityfile ~/.ssh/a\nidentityfile ~/.ssh/b\n"
    ways = ssh.ways_of(f"{told}controlmaster auto\nforwardagent yes\nproxycommand none\n")
    assert ways == [("user", "root"), ("hostname", "192.0.2.7"), ("proxyjump", "gate"),
                    ("identityfile", "~/.ssh/a"), ("identityfile", "~/.ssh/b")]  # fmt: skip
    assert "ControlMaster auto" in ssh.config("far", ways, Path("/run/x/ssh"))


# --- facts


def test_the_facts_of_a_real_xen():
    facts = facts_of(recorded())
    assert (facts.hypervisor, facts.version, facts.scheduler) == ("xen", "4.17.0", "credit2")
    assert facts.modes == ("pv", "pvh", "hvm") and facts.types == ("xen",)
    assert facts.cores == 2 and 1 << 30 < facts.free < facts.memory
    assert any("cap" in text for text in facts.limits) and facts.taken == 0


def test_dom0_keeps_what_its_weight_is_worth():
    told = recorded()
    told.told["domains"]["0"]["schedulerParameters"]["weight"] = CORE // 4
    facts = facts_of(told)
    assert facts.own == 500 and room(facts, 1 << 30)[0] == 1500


def test_guests_memory_counts_as_theirs_and_not_as_lost():
    told = recorded()
    before = room(facts_of(told), 0)[1]
    told.told["domains"]["7"] = {
        **told.told["domains"]["0"],
        "info": [1, 512 << 10, 512 << 10, 1, 0],
    }
    told.told["getFreeMemory"] -= 512 << 20
    facts = facts_of(told)
    assert facts.taken == 512 << 20 and room(facts, 0)[1] == before


def test_a_machine_whose_guests_are_processes_keeps_some_for_itself():
    facts = HostFacts("qemu", "7.2.0", 4, 8 << 30, ("kvm",))
    assert room(facts, 1 << 30) == (3600, 7 << 30)


@pytest.mark.parametrize(
    ("types", "found"),
    [(["hvm"], ("hvm",)), (["hvm", "xenpvh", "xen"], ("pv", "pvh", "hvm")), (["linux"], ("pv",)), (["exe"], ())],
)  # fmt: skip
def test_kinds_of_guest(types, found):
    guests = "".join(f"<guest><os_type>{t}</os_type></guest>" for t in types)
    assert modes(f"<capabilities>{guests}</capabilities>") == found


# --- bad input


def demanded(**more):
    with pytest.raises(InputError) as caught:
        xenhost._demand(replace(MACHINE, **more), 10 << 30)
    return explain(caught.value)


def test_a_machine_that_cannot_be_is_refused_with_all_that_is_wrong():
    said = demanded(memory=1 << 30, disk=5 << 30, cores=0)
    assert "--memory: 1G is not between 2G and this machine's" in said and "dom0 takes 1G" in said
    assert (
        "--disk: 5G is smaller than its disk, 10G" in said and "--cores: 0 cannot be shown" in said
    )
    assert "this machine's" in demanded(memory=1 << 50)


def test_a_host_is_known_again_by_its_file_alone(tmp_path):
    assert xenhost._read(tmp_path) is None and not xenhost.alive(tmp_path)
    (tmp_path / "host.json").write_text("{")
    assert xenhost._read(tmp_path) is None


def test_the_port_stays_unless_another_has_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = xenhost._port(port)
        assert other not in (0, port)
    assert xenhost._port(other) == other


def test_an_image_without_a_hypervisor_is_no_xen_host(tmp_path):
    catalog = Catalog(tmp_path / "images")
    image = replace(IMAGE, name="xen-host")
    catalog.folder(image).mkdir()
    (catalog.folder(image) / "manifest.json").write_text(image.to_json())
    with pytest.raises(EnvironmentLacks, match="has no hypervisor"):
        xenhost.appliance(tmp_path, tmp_path, catalog, print)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("lxc:///system", "is no address of a QEMU or Xen host"),
        ("xne+ssh://m/system", "did you mean 'xen'"),
        ("xen+ssh://root@m/", "write xen+ssh://root@m/system"),
        ("qemu:///session", "write qemu:///system"),
        ("xen+tls://m/system", "write xen+ssh://user@machine/system, or xen:///system"),
        ("qemu+ssh:///system", "is not reached by SSH"),
        ("xen+unix:///system", "is not reached by SSH"),
    ],
)
def test_addresses_that_cannot_be_used(uri, said, tmp_path):
    site = Site(tmp_path)
    with pytest.raises(InputError) as caught:
        registry.add(site, "far", uri, None, 10**9)
    assert said in explain(caught.value)
    assert site.ledger.hosts() == [] and not (tmp_path / "hosts").exists()


def test_what_is_written_down_is_read_again(tmp_path):
    import json

    (tmp_path / "host.json").write_text(json.dumps(asdict(MACHINE)))
    assert xenhost._read(tmp_path) == MACHINE
