"""What a cluster needs of its host beside room: hypervisor, its version, the kernel; compared with the host's facts."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from builder.document import Written
from builder.errors import shown
from cluster.hosts.facts import HostFacts, versions

_FORM = r"(>=|<=|>|<|=)\s*([0-9]+(?:\.[0-9]+)*)"
_COMPARE: dict[str, Callable[[list[int], list[int]], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip


def _bound(text: str) -> str:
    if re.fullmatch(_FORM, text.strip()) is None:
        raise ValueError(
            f"{shown(text)} bounds no version; write >=, >, <=, < or = and numbers, as in '>=6.1'"
        )
    return text.strip()


Bound = Annotated[
    str, AfterValidator(_bound), WithJsonSchema({"type": "string", "pattern": rf"^\s*{_FORM}\s*$"})
]
"""A version's bound, as in >=6.1."""


class Requires(Written):
    """What the host must be."""

    hypervisor: Literal["qemu", "xen"] | None = Field(None, description="qemu or xen")
    version: Bound | None = Field(None, description="bound of the hypervisor's version: '>=4.17'")
    kernel: Bound | None = Field(
        None, description="bound of the version of the host's kernel, dom0's on Xen: '>=6.1'"
    )


def holds(bound: str, version: str) -> bool:
    """Whether a version is within a bound, compared in as many numbers as the bound has.

    >>> holds(">=6.1", "6.1.0-56-amd64"), holds("=4.17", "4.17.5"), holds("<4.17", "4.17.5")
    (True, True, False)
    """
    found = re.fullmatch(_FORM, bound)
    assert found is not None
    wanted = list(versions(found[2]))
    have = [*versions(version), *[0] * len(wanted)][: len(wanted)]
    return _COMPARE[found[1]](have, wanted)


def lacks(wanted: Requires, facts: HostFacts) -> list[tuple[str, str]]:
    """What the host is not, as pairs of the key and what the host has instead."""
    found = []
    if wanted.hypervisor not in (None, facts.hypervisor):
        found.append(("hypervisor", f"has {facts.named}, and {wanted.hypervisor} is required"))
    if wanted.version is not None and not holds(wanted.version, facts.version):
        found.append(("version", f"has {facts.named}, and {wanted.version} is required"))
    if wanted.kernel is not None and not holds(wanted.kernel, facts.kernel):
        found.append(("kernel", f"has kernel {facts.kernel}, and {wanted.kernel} is required"))
    return found
