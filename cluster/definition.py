"""A domain's definition, libvirt's XML, read and changed in what its guarantee says. Pure.

libvirt itself changes its definitions; here are the parts that are read from them, and what a fake does in its place.
"""

from __future__ import annotations

from typing import assert_never, cast
from xml.etree import ElementTree

from cluster.domain import Mark, marking
from cluster.elements import Crash
from cluster.guarantee import Balloon, CpuTune, Credit, Setting, Throttle
from cluster.hosts.host import cpu_list, cpu_text
from cluster.network import NAMESPACE

_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
"""Of memory, as far as anybody writes them; libvirt gives back KiB."""


def size(xml: str) -> tuple[int, int]:
    """(CPUs, bytes of memory) that the domain boots with."""
    root = ElementTree.fromstring(xml)
    return int(root.findtext("vcpu") or 1), _bytes(root.find("memory"))


def crash(xml: str) -> Crash:
    """What becomes of it when its kernel crashes; libvirt's default is to be off."""
    return cast("Crash", ElementTree.fromstring(xml).findtext("on_crash") or "destroy")


def pin(xml: str) -> str:
    """The host's CPUs that all its virtual CPUs stay on; "" for all, and something that is no list if they differ."""
    found = {p.get("cpuset", "") for p in ElementTree.fromstring(xml).findall("cputune/vcpupin")}
    return " ".join(sorted(cpu_text(cpu_list(text)) for text in found))


def tuning(xml: str) -> tuple[CpuTune | Credit | None, Balloon, Throttle]:
    """What the definition says of CPU, balloon and disk."""
    root = ElementTree.fromstring(xml)
    tune = root.find("cputune")
    cpu = None
    if tune is not None and tune.find("global_quota") is not None:
        cpu = CpuTune(
            *(int(tune.findtext(t) or 0) for t in ("shares", "global_quota", "global_period"))
        )
    current = root.find("currentMemory")
    limits = (
        root.findtext(f"devices/disk/iotune/{t}") for t in ("total_bytes_sec", "total_iops_sec")
    )
    return (
        cpu, Balloon(_bytes(root.find("memory") if current is None else current)),
        Throttle(*(int(text or 0) for text in limits)),
    )  # fmt: skip


def tuned(xml: str, setting: Setting) -> str:
    """The definition with one setting made."""
    root = ElementTree.fromstring(xml)
    match setting:
        case CpuTune(shares, quota, period):
            tune = _at(root, "cputune")
            for tag, value in (
                ("shares", shares),
                ("global_period", period),
                ("global_quota", quota),
            ):
                _at(tune, tag).text = str(value)
        case Credit(weight, _):
            _at(_at(root, "cputune"), "shares").text = str(weight)
        case Balloon(memory):
            current = _at(root, "currentMemory")
            current.text, current.attrib["unit"] = str(memory >> 10), "KiB"
        case Throttle(throughput, iops):
            disk = root.find("devices/disk")
            assert disk is not None
            for tag, value in (("total_bytes_sec", throughput), ("total_iops_sec", iops)):
                _at(_at(disk, "iotune"), tag).text = str(value)
        case _:
            assert_never(setting)
    return ElementTree.tostring(root, encoding="unicode")


def remarked(xml: str, mark: Mark) -> str:
    """The definition with another mark."""
    root = ElementTree.fromstring(xml)
    found = root.find(f"metadata/{{{NAMESPACE}}}node")
    assert found is not None
    found.attrib.clear()
    found.attrib.update(marking(mark))
    return ElementTree.tostring(root, encoding="unicode")


def element(mark: Mark) -> str:
    """The mark as libvirt's setMetadata takes it: it puts the namespace there itself."""
    return ElementTree.tostring(ElementTree.Element("node", marking(mark)), encoding="unicode")


def _bytes(memory: ElementTree.Element | None) -> int:
    return 0 if memory is None else int(memory.text or 0) * _UNITS[memory.get("unit", "KiB")]


def _at(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = parent.find(tag)
    return ElementTree.SubElement(parent, tag) if found is None else found
