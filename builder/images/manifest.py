"""What an image is: its name, its bytes' digests, what is in it, and what it was made from.

The manifest lies beside the image as manifest.json and is the only thing that readers of the catalog parse.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, fields
from itertools import chain
from typing import Any, Literal, get_args

Contextualization = Literal["agent", "cloud-init", "none"]
"""Who applies the context in the guest: our agent, cloud-init (which brings our agent along), or nobody: then it is
written into the node's own disk before it boots.
"""


VIRTUALIZATION = ("pv", "pvh", "hvm")
"""What a guest can be on Xen. Debian's kernels since 2019 can be all of them."""
_CONFIGURED = {"pv": "CONFIG_XEN_PV=y", "pvh": "CONFIG_PVH=y", "hvm": "CONFIG_XEN_PVHVM=y"}

WHOLE = (("/", "/dev/vda"),)
"""A disk that is one filesystem, as ours are."""


@dataclass(frozen=True, slots=True)
class PackageFact:
    """One installed Debian package, as dpkg knows it."""

    name: str
    version: str
    architecture: str
    source: str


@dataclass(frozen=True, slots=True)
class WheelFact:
    """One Python package that pip installed, and the sha256 of its wheel. Debian's own are `packages`."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image came from that no recipe made.

    how   import: from a disk's file; customize: from another image
    of    sha256 of the file, or the other image's id
    file  the file's name, and `form` its format
    acts  what was done, in order, in words
    """

    how: Literal["import", "customize"]
    of: str
    file: str = ""
    form: str = ""
    acts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """id       sha256 over the digests of disk, kernel and initrd: the appliance's identity
    digests  sha256 of each file beside the manifest
    size     bytes of the root filesystem; `stored` bytes on our disk (it is sparse)
    epoch    seconds since 1970: no file of the image is younger
    built    UTC, ISO 8601: when this copy was made; not part of the identity
    capabilities  words of the recipe and its parents for what the image can do
    max_age  seconds after `epoch` from which on the image is aged; 0: it does not age
    """

    id: str
    name: str
    version: str
    summary: str
    size: int
    stored: int
    kernel: str
    cmdline: str
    digests: tuple[tuple[str, str], ...]
    packages: tuple[PackageFact, ...]
    plan: str
    recipe_digest: str
    parameters: tuple[tuple[str, Any], ...]
    layers: tuple[str, ...]
    epoch: int
    built: str
    capabilities: tuple[str, ...] = ()
    max_age: int = 0
    context: dict[str, Any] = field(default_factory=dict)
    """How its nodes join a cluster: what the recipe's `context` says, with its templates' texts."""
    papers: tuple[tuple[str, str], ...] = ()
    """sha256 of what describes the image and lies beside it: inventory and provenance. No part of the identity."""
    contextualization: Contextualization = "agent"
    agent: int = 0
    """Version of the seeds that the agent in it reads; 0: there is none, or it is not known."""
    formats: tuple[str, ...] = ()
    """What it is written as when nobody says otherwise: the recipe's `formats`."""
    wheels: tuple[WheelFact, ...] = ()
    """What pip installed: the recipe's `pip` and what that needs, in the order of names."""
    origin: Origin | None = None
    """None: a recipe."""
    mounts: tuple[tuple[str, str], ...] = WHOLE
    """(mount point, device) of the disk's filesystems, the root first; ours is the whole disk."""
    requires: tuple[tuple[str, str], ...] = ()
    """What the host of its nodes must be: the recipe's `requires`."""
    hypervisor: str | None = None
    """Options of the Xen that boots before the kernel, which is its dom0: the file `xen`. None: there is none."""
    network: str = ""
    """What reads network configuration where no agent does: netplan, ifupdown or networkd."""

    virtualization: tuple[str, ...] = VIRTUALIZATION
    """What its kernel can be on a Xen host: of pv, pvh, hvm."""

    @property
    def short(self) -> str:
        return self.id[:12]

    def age(self, now: float) -> float:
        """Seconds since the packages were those of the mirror: the same bytes have the same age, whenever built."""
        return max(0.0, now - self.epoch)

    def aged(self, now: float) -> bool:
        return 0 < self.max_age < self.age(now)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> Manifest:
    """Read what `to_json` wrote, now or before there were all of its keys. ValueError if it is something else."""
    try:
        data = json.loads(text)
        data["digests"] = tuple((k, v) for k, v in data["digests"])
        data["packages"] = tuple(PackageFact(**p) for p in data["packages"])
        data["parameters"] = tuple((k, v) for k, v in data["parameters"])
        data["layers"] = tuple(data["layers"])
        for name, default in (
            ("capabilities", ()),
            ("formats", ()),
            ("virtualization", VIRTUALIZATION),
        ):
            data[name] = tuple(data.get(name, default))
        data["papers"] = tuple((k, v) for k, v in data.get("papers", ()))
        data["requires"] = tuple((k, v) for k, v in data.get("requires", ()))
        data["wheels"] = tuple(WheelFact(**w) for w in data.get("wheels", ()))
        data["mounts"] = tuple((k, v) for k, v in data.get("mounts", WHOLE))
        if data.get("origin") is not None:
            data["origin"]["acts"] = tuple(data["origin"]["acts"])
            data["origin"] = Origin(**data["origin"])
        found = Manifest(**data)
        if not isinstance(found.context, dict):
            raise ValueError("its context is no mapping")
        if found.contextualization not in get_args(Contextualization):
            raise ValueError(f"nothing is contextualized by {found.contextualization!r}")
        texts = [getattr(found, f.name) for f in fields(Manifest) if f.type == "str"]
        texts += [found.hypervisor or ""]
        texts += [
            *found.layers,
            *found.capabilities,
            *found.formats,
            *chain(*found.digests, *found.papers, *found.mounts, *found.requires),
            *(name for name, _ in found.parameters),
        ]
        texts += chain(*map(astuple, found.packages), *map(astuple, found.wheels))
        if origin := found.origin:
            texts += [origin.how, origin.of, origin.file, origin.form, *origin.acts]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("something in it is no text")
        if not all(
            type(getattr(found, f.name)) is int for f in fields(Manifest) if f.type == "int"
        ):
            raise ValueError("a number in it is none")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
        raise ValueError(f"not a manifest: {cause}") from None
    return found


def identity(digests: dict[str, str]) -> str:
    """The image's id from the digests of its files."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def contextualization(agent: bool, packages: Iterable[PackageFact]) -> Contextualization:
    """From what is in the tree: an image cannot say of itself what it is not.

    agent  whether our agent is there
    """
    if agent:
        return "agent"
    return "cloud-init" if any(p.name == "cloud-init" for p in packages) else "none"


def virtualization(config: str) -> tuple[str, ...]:
    """What a kernel of that configuration (/boot/config-VERSION, or its lines that count) can be on Xen.

    >>> virtualization("CONFIG_XEN_PV=y\\nCONFIG_PVH=y\\n# CONFIG_XEN_PVHVM is not set\\n")
    ('pv', 'pvh')
    """
    lines = set(config.splitlines())
    return tuple(name for name in VIRTUALIZATION if _CONFIGURED[name] in lines)


def parse_packages(text: str) -> tuple[PackageFact, ...]:
    """From `dpkg-query -W` lines of name, version, architecture and source, tab between."""
    rows = (line.split("\t") for line in text.splitlines() if line)
    return tuple(
        sorted((PackageFact(*row) for row in rows), key=lambda p: (p.name, p.architecture))
    )
