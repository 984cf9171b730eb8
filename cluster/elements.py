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
