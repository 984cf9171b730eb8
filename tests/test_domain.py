"""A node's domain XML: what libvirt's own schema takes, the same each time, with a mark that can be read back."""

from __future__ import annotations

import ipaddress
from dataclasses import fields, replace
from pathlib import Path

import pytest
from lxml import etree

from cluster import definition, domain, network
from cluster.domain import Machine
from cluster.guarantee import Guarantee
from tests.invented import GUARANTEE, promise

SCHEMAS = Path("/usr/share/libvirt/schemas")

MACHINE = Machine(
    cluster="demo", node="worker-1", role="worker", image="1f" * 32, guarantee=GUARANTEE,
    mac="52:54:00:01:02:03", machine_id="0123456789ab4def8123456789abcdef", tap="phxt01234567",
    network="phx-demo", kernel="/var/lib/libvirt/images/1f1f/vmlinuz",
    initrd="/var/lib/libvirt/images/1f1f/initrd", cmdline="net.ifnames=0 loglevel=4",
    disk="/var/lib/libvirt/philoxenia/demo/worker-1.qcow2",
    seed="/var/lib/libvirt/philoxenia/demo/worker-1.seed.iso",
    channel="/run/libvirt/philoxenia/demo/worker-1.sock",
    log="/var/log/libvirt/philoxenia/demo/worker-1.log", accelerator="qemu", partition="/phx-lab",
)  # fmt: skip
CONTEXT = "ab" * 32


def schema(name):
    path = SCHEMAS / name
    if not path.exists():
        # dpkg -S /usr/share/libvirt/schemas/domain.rng
        pytest.fail(f"{path} is missing: apt-get install libvirt0")
    return etree.RelaxNG(etree.parse(str(path)))


@pytest.fixture(scope="module")
def domain_schema():
    return schema("domain.rng")


@pytest.mark.parametrize("accelerator", ["qemu", "kvm"])
def test_golden_and_valid(accelerator, golden, domain_schema):
    text = domain.xml(replace(MACHINE, accelerator=accelerator), CONTEXT)
    domain_schema.assertValid(etree.fromstring(text))
    golden(f"domain-{accelerator}.xml", text)


@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_golden_and_valid_on_xen(kind, golden, domain_schema):
    text = domain.xml(replace(MACHINE, virtualization=kind), CONTEXT)
    domain_schema.assertValid(etree.fromstring(text))
    golden(f"xen/domain-{kind}.xml", text)


def test_the_schema_would_refuse_another_domain(domain_schema):
    text = domain.xml(MACHINE, CONTEXT).replace("<vcpu>", "<vcpus>").replace("</vcpu>", "</vcpus>")
    assert not domain_schema.validate(etree.fromstring(text))


def test_no_partition_no_resource():
    assert "<resource>" not in domain.xml(replace(MACHINE, partition=""), CONTEXT)


@pytest.mark.parametrize("walled", [True, False])
def test_the_network_is_valid_too(walled):
    text = network.xml("demo", ipaddress.IPv4Network("10.7.0.0/24"), walled=walled)
    schema("network.rng").assertValid(etree.fromstring(text))


def test_the_mark_reads_back():
    found = domain.mark(domain.xml(MACHINE, CONTEXT))
    assert found == domain.Mark(
        "demo", "worker-1", "worker", domain.digest(MACHINE), CONTEXT, GUARANTEE
    )


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("no metadata at all", "<domain><name>x</name></domain>"),
        ("another's metadata", "<domain><metadata><o:x xmlns:o='urn:other'/></metadata></domain>"),
        (
            "our name in another's namespace",
            "<domain><metadata><o:node xmlns:o='urn:other'/></metadata></domain>",
        ),
        (
            "our element elsewhere than in the metadata",
            "<domain><devices><p:node xmlns:p='urn:philoxenia:1'/></devices></domain>",
        ),
    ],
)
def test_what_is_not_ours_has_no_mark(why, text):
    assert domain.mark(text) is None, why


MEANT = {"role", "cgroup", "room", "crash", "pin"}
"""Fields that do not make another machine: said in the seed, how weights are counted, how it ends, where it stays."""


@pytest.mark.parametrize(
    "name", [f.name for f in fields(Machine) if f.name not in {"guarantee", *MEANT}]
)
def test_the_digest_changes_with_each_field(name):
    other = {"accelerator": "kvm", "virtualization": "pv"}.get(name, getattr(MACHINE, name) + "x")
    assert domain.digest(replace(MACHINE, **{name: other})) != domain.digest(MACHINE)


def test_the_digest_is_not_of_the_guarantee_which_can_change_while_the_machine_lives():
    for name in (f.name for f in fields(Guarantee)):
        given = replace(GUARANTEE, **{name: 2 * getattr(GUARANTEE, name) + 1})
        assert domain.digest(replace(MACHINE, guarantee=given)) == domain.digest(MACHINE)
    assert domain.digest(replace(MACHINE, cgroup=2, room=99_000)) == domain.digest(MACHINE)


@pytest.mark.parametrize("kind", ["", "pv", "pvh"])
def test_a_pinned_machine_is_valid_and_says_where_it_stays(kind, domain_schema):
    pinned = replace(MACHINE, virtualization=kind, pin="0,2-3", guarantee=promise(1000, 2000))
    text = domain.xml(pinned, CONTEXT)
    domain_schema.assertValid(etree.fromstring(text))
    assert definition.pin(text) == "0,2-3" and definition.pin(domain.xml(MACHINE, CONTEXT)) == ""
    assert text.count('cpuset="0,2-3"') == (2 if kind else 3), "each virtual CPU, and QEMU itself"
    assert domain.digest(pinned) == domain.digest(replace(pinned, pin=""))


def test_memory_and_disk_limits_are_in_the_xml(domain_schema):
    given = promise(memory=512 << 20, memory_max=1 << 30, disk_throughput=20 << 20, disk_iops=500)
    root = etree.fromstring(domain.xml(replace(MACHINE, guarantee=given), CONTEXT))
    domain_schema.assertValid(root)
    assert (root.findtext("memory"), root.findtext("currentMemory")) == ("1048576", "524288")
    tuned = root.find("devices/disk/iotune")
    assert {x.tag: x.text for x in tuned} == {
        "total_bytes_sec": "20971520",
        "total_iops_sec": "500",
    }


@pytest.mark.parametrize("name", [f.name for f in fields(Guarantee)])
def test_the_mark_changes_with_each_part_of_the_guarantee(name):
    given = replace(GUARANTEE, **{name: 2 * getattr(GUARANTEE, name) + 1024})
    found = domain.mark(domain.xml(replace(MACHINE, guarantee=given), CONTEXT))
    assert found is not None and found.guarantee == given


def test_the_digest_is_not_of_the_context():
    assert domain.mark(domain.xml(MACHINE, "cd" * 32)).digest == domain.digest(MACHINE)


def test_text_from_a_recipe_cannot_leave_its_place(domain_schema):
    text = domain.xml(replace(MACHINE, cmdline='quiet "<&> </cmdline><evil/>'), CONTEXT)
    root = etree.fromstring(text)
    assert root.find(".//evil") is None
    assert '"<&> </cmdline><evil/>' in root.findtext("os/cmdline")
    domain_schema.assertValid(root)


def test_an_image_with_partitions_names_its_root_itself():
    text = domain.xml(replace(MACHINE, cmdline="root=/dev/vda2 quiet"), CONTEXT)
    words = etree.fromstring(text).findtext("os/cmdline").split()
    assert [w for w in words if w.startswith("root=")] == ["root=/dev/vda2"] and "rw" in words


@pytest.mark.parametrize(
    ("theirs", "on_xen"),
    [("root=/dev/vda2 quiet", "root=/dev/xvda2"), ("quiet", "root=/dev/xvda"), ("root=UUID=a-b", "root=UUID=a-b"),
     ("root=/dev/xvda1", "root=/dev/xvda1")],
)  # fmt: skip
def test_on_xen_the_same_disk_has_another_name(theirs, on_xen):
    text = domain.xml(replace(MACHINE, cmdline=theirs, virtualization="pv"), CONTEXT)
    words = etree.fromstring(text).findtext("os/cmdline").split()
    assert [w for w in words if "root=" in w][-1:] == [on_xen]
