"""What a recipe or a cluster file needs of its host, beside room: a hypervisor, its version, the host's kernel."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from builder.document import Written
from builder.errors import shown

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
    """What a host must be."""

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


def versions(text: str) -> Sequence[int]:
    """The numbers that a version begins with, to compare by.

    >>> versions("6.1.0-56-amd64") > versions("6.1"), versions("4.17.0") < versions("4.18")
    (True, True)
    """
    found: list[int] = []
    for word in text.split("-")[0].split("."):
        if not word.isdigit():
            break
        found.append(int(word))
    return found
