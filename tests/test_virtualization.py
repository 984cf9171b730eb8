"""What a node is on a Xen host: what host and image can both be, or an error that says which of them cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.images.manifest import virtualization as able
from cluster.plan import virtualization
from cluster.spec import Role
from tests.invented import IMAGE, LAB

XEN = replace(LAB, name="far", driver="xen", offers=("pv", "pvh", "hvm"))
ROLE = {
    "image": "worker", "cpu": {"guarantee": 0.5, "limit": 1}, "memory": "512M",
    "network": {"guarantee": "20Mbit", "limit": "100Mbit"},
}  # fmt: skip


def role(kind: str) -> Role:
    return Role.model_validate({**ROLE, "virtualization": kind})


@pytest.mark.parametrize(
    ("kind", "accelerator", "offers", "image", "found"),
    [
        ("auto", "qemu", ("pv", "pvh", "hvm"), ("pv", "pvh", "hvm"), "pv"),
        ("auto", "", ("pv", "pvh", "hvm"), ("pv", "pvh", "hvm"), "pvh"),
        ("auto", "", ("pv",), ("pv", "pvh"), "pv"),
        ("auto", "", ("pv", "hvm"), ("hvm",), "hvm"),
        ("hvm", "", ("pv", "hvm"), ("pv", "hvm"), "hvm"),
    ],
)
def test_what_it_is(kind, accelerator, offers, image, found):
    host = replace(XEN, accelerator=accelerator, offers=offers)
    assert virtualization(role(kind), host, replace(IMAGE, virtualization=image)) == found


@pytest.mark.parametrize(
    ("kind", "host", "image", "why"),
    [
        ("pv", LAB, ("pv",), "host 'lab' is no Xen host; write auto"),
        ("pvh", replace(XEN, offers=("pv",)), ("pvh",), "host 'far' has no pvh guests; it offers pv"),
        ("pvh", XEN, ("pv",), "cannot be a pvh guest; its kernel can be pv"),
        ("auto", replace(XEN, offers=("pvh",)), ("pv",), "offers pvh, image .* can be pv"),
        ("hvm", replace(XEN, accelerator="qemu"), ("hvm",), "'far' is emulated: .* after four minutes; write auto"),
    ],
)  # fmt: skip
def test_what_cannot_be(kind, host, image, why):
    with pytest.raises(ValueError, match=why):
        virtualization(role(kind), host, replace(IMAGE, virtualization=image))


def test_on_qemu_there_is_nothing_to_choose():
    assert virtualization(role("auto"), LAB, IMAGE) == ""


def test_what_a_kernel_says_of_itself():
    assert able("CONFIG_XEN_PV=y\nCONFIG_PVH=y\n# CONFIG_XEN_PVHVM is not set\n") == ("pv", "pvh")
    assert able("") == ()
