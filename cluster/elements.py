"""Elements of libvirt's XML, made one below another."""

from __future__ import annotations

from typing import Literal
from xml.etree import ElementTree

Crash = Literal["destroy", "restart"]
"""What becomes of a domain whose kernel crashes, in libvirt's words (<on_crash>) as far as both drivers keep them."""


def add(
    parent: ElementTree.Element, tag: str, text: str = "", **attributes: str
) -> ElementTree.Element:
    """A new last child of `parent`."""
    child = ElementTree.SubElement(parent, tag, attributes)
    if text:
        child.text = text
    return child


def pinned(tune: ElementTree.Element, vcpus: int, cpus: str) -> None:
    """Let each virtual CPU stay on these of the host; nothing with ""."""
    for number in range(vcpus if cpus else 0):
        add(tune, "vcpupin", vcpu=str(number), cpuset=cpus)
