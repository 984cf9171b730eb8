"""Answers of the real Xen driver, recorded for the fast tests. To record them again, with a Xen host `xen` that runs:

    phx host up --xen xen
    .venv/bin/python -m tests.xen.record xen

`Recorded` gives them back as a libvirt connection would.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "cases" / "xen" / "host.json"


def record(connection: Any) -> dict[str, Any]:
    """What `facts_of` asks."""
    domains = {d.ID(): d for d in connection.listAllDomains()}
    return {
        "getInfo": connection.getInfo(), "getType": connection.getType(), "getVersion": connection.getVersion(),
        "getFreeMemory": connection.getFreeMemory(), "getCapabilities": connection.getCapabilities(),
        "domains": {
            str(n): {"info": d.info(), "schedulerType": d.schedulerType(),
                     "schedulerParameters": d.schedulerParameters()}
            for n, d in domains.items()
        },
    }  # fmt: skip


class Recorded:
    """A connection, or a domain of it, that answers as recorded."""

    def __init__(self, told: dict[str, Any], number: int = 0) -> None:
        self.told, self.number = told, number

    def __getattr__(self, name: str) -> Any:
        return lambda: self.told[name]

    def ID(self) -> int:
        return self.number

    def lookupByID(self, number: int) -> Recorded:
        return Recorded(self.told["domains"][str(number)], number)

    def listAllDomains(self) -> list[Recorded]:
        return [self.lookupByID(int(number)) for number in self.told["domains"]]


def recorded() -> Recorded:
    return Recorded(json.loads(FILE.read_text()))


if __name__ == "__main__":
    from builder.terminal import home
    from cluster.hosts.hypervisor import Libvirt
    from cluster.ledger import Ledger

    found = record(Libvirt(Ledger(home()).host(sys.argv[1]).uri)._connection)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + "\n")
