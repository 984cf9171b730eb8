"""What a cluster needs of its host is compared with what hosts are, and refused with what each has instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.document import parse
from builder.errors import InputError, explain
from builder.language.requires import Requires, holds
from cluster import spec as specs
from cluster.draft import _able
from cluster.hosts.facts import facts_of
from cluster.requires import lacks
from cluster.site import Site
from tests.invented import CLUSTER, IMAGE, LAB
from tests.xen.record import recorded

XEN = replace(facts_of(recorded()), kernel="6.1.0-56-amd64")
FAR = replace(LAB, name="far", kind="libvirt", driver="xen", uri="xen+ssh://far/system", ssh="/nonexistent",
              netns="", folder="", offers=("pv",))  # fmt: skip


@pytest.mark.parametrize(
    ("bound", "version", "held"),
    [
        (">=6.1", "6.1.0-56-amd64", True), (">=6.2", "6.1.99", False), ("> 4.16", "4.17.5", True),
        ("=4.17", "4.17.5", True), ("=4.17.4", "4.17.5", False), ("<6.10", "6.9.1", True),
        ("<=6", "6.12", True), (">=6.1", "", False), (">=10", "9.9", False),
    ],
)  # fmt: skip
def test_bounds_count_numbers_and_not_letters(bound, version, held):
    assert holds(bound, version) is held


def test_what_a_real_xen_has_and_lacks():
    assert lacks(Requires(hypervisor="xen", version=">=4.17", kernel=">=6.1"), XEN) == []
    found = dict(lacks(Requires(hypervisor="qemu", version=">4.17", kernel=">=6.6"), XEN))
    assert found == {
        "hypervisor": "has Xen 4.17.0, and qemu is required",
        "version": "has Xen 4.17.0, and >4.17 is required",
        "kernel": "has kernel 6.1.0-56-amd64, and >=6.6 is required",
    }


def able(site, more, hosts):
    document = parse(CLUSTER.replace("roles:", f"{more}roles:", 1), "demo.yaml")
    spec, document = specs.checked(document)
    return [h.name for h in _able(site, spec, document, {"worker": IMAGE}, hosts)]


def test_only_hosts_that_are_so_are_candidates(tmp_path):
    image_hosts = [LAB, FAR]
    site = Site(tmp_path)
    assert able(site, "requires: {hypervisor: qemu}\n", image_hosts) == ["lab"]
    assert able(site, "requires: {hypervisor: xen}\n", image_hosts) == ["far"]
    assert able(site, "requires: {hypervisor: qemu, kernel: '>=3'}\n", [LAB]) == ["lab"]


def test_what_an_images_recipe_requires_counts_too(tmp_path):
    document = parse(CLUSTER, "demo.yaml")
    spec, document = specs.checked(document)
    image = replace(IMAGE, requires=(("hypervisor", "xen"),))
    with pytest.raises(InputError) as caught:
        _able(Site(tmp_path), spec, document, {"worker": image}, [LAB])
    assert "roles.head.image: host 'lab' has QEMU, and xen is required" in explain(caught.value)
    assert _able(Site(tmp_path), spec, document, {"worker": image}, [LAB, FAR]) == [FAR]


def test_when_none_is_left_each_is_named_with_what_it_has(tmp_path):
    with pytest.raises(InputError) as caught:
        able(Site(tmp_path), "requires: {hypervisor: xen, kernel: '>=99'}\n", [LAB])
    said = explain(caught.value)
    assert "requires.hypervisor: host 'lab' has QEMU" in said
    assert "requires.kernel: host 'lab' has kernel" in said and "and >=99 is required" in said


def test_a_host_that_cannot_be_asked_says_so(tmp_path):
    with pytest.raises(InputError) as caught:
        able(Site(tmp_path), "requires: {version: '>=7'}\n", [LAB])
    assert "requires: host 'lab' does not run" in explain(caught.value)
