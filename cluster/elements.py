"""Elements of libvirt's XML, made one below another."""

from __future__ import annotations

from xml.etree import ElementTree


def add(
    parent: ElementTree.Element, tag: str, text: str = "", **attributes: str
) -> ElementTree.Element:
    """A new last child of `parent`."""
    child = ElementTree.SubElement(parent, tag, attributes)
    if text:
        child.text = text
    return child
