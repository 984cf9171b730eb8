"""What nodes use, and what is on an account, as people and programs read it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from builder.units import show_about, show_size
from cluster.guarantee import show_rates
from cluster.metering.account import Account
from cluster.metering.usage import Use

USE_HEADS = (
    "NODE",
    "ROLE",
    "CPU",
    "PROMISED",
    "MEMORY",
    "IN",
    "OUT",
    "PROMISED",
    "READ",
    "WRITTEN",
    "",
)
ACCOUNT_HEADS = (
    "CLUSTER",
    "OWNER",
    "NODES",
    "CPU HELD",
    "USED",
    "MEMORY HELD",
    "IN",
    "OUT",
    "READ",
    "WRITTEN",
)


def use_data(use: Use, at: datetime.datetime) -> dict[str, Any]:
    """One node for programs: the unit of each number is in its name. None is what the driver does not tell."""
    g = use.given
    return {
        "time": at.isoformat(timespec="milliseconds"),
        "cluster": use.cluster, "node": use.node, "role": use.role, "host": use.host,
        "cpu_cores": _rounded(use.cpu), "cpu_waited_cores": _rounded(use.waited),
        "cpu_guarantee_cores": g.cpu_guarantee / 1000, "cpu_limit_cores": g.cpu_limit / 1000,
        "memory_bytes": use.memory, "memory_limit_bytes": use.memory_limit,
        "received_bits_per_second": _whole(use.received), "sent_bits_per_second": _whole(use.sent),
        "receive_guarantee_bits_per_second": g.in_guarantee,
        "receive_limit_bits_per_second": g.in_limit,
        "send_guarantee_bits_per_second": g.out_guarantee,
        "send_limit_bits_per_second": g.out_limit,
        "read_bytes_per_second": _whole(use.read), "written_bytes_per_second": _whole(use.written),
        "starved": use.starved,
    }  # fmt: skip


def use_cells(use: Use) -> tuple[str, ...]:
    """One node for people, under USE_HEADS."""
    g = use.given
    return (
        use.node, use.role, f"{use.cpu:.2f}", f"{g.cpu_guarantee / 1000:g}..{g.cpu_limit / 1000:g}",
        f"{show_size(use.memory)}/{show_size(use.memory_limit)}",
        _bits(use.received), _bits(use.sent),
        show_rates(g),
        _bytes(use.read), _bytes(use.written), "STARVED" if use.starved else "",
    )  # fmt: skip


def account_data(
    account: Account, since: datetime.datetime | None, until: datetime.datetime
) -> dict[str, Any]:
    """One line of the account for programs: what was held is guarantee times seconds."""
    return {
        "cluster": account.cluster, "owner": account.owner, "nodes": account.nodes,
        "since": since and since.isoformat(timespec="seconds"), "until": until.isoformat(timespec="seconds"),
        "held": {
            "cpu_core_seconds": _rounded(account.held.cpu), "memory_byte_seconds": _whole(account.held.memory),
            "network_bits": _whole(account.held.network), "disk_byte_seconds": _whole(account.held.disk),
        },
        "used": {
            "cpu_seconds": _rounded(account.used.cpu),
            **{f"{name}_bytes": value for name, value in asdict(account.used).items() if name != "cpu"},
        },
    }  # fmt: skip


def account_cells(accounts: Sequence[Account]) -> list[tuple[str, ...]]:
    """The account for people, under ACCOUNT_HEADS."""
    return [
        (a.cluster, a.owner or "-", str(a.nodes), _long(a.held.cpu, "core "), _long(a.used.cpu, "core "),
         _long(a.held.memory / (1 << 30), "GiB "),
         *(show_about(n) if n else "0" for n in (a.used.received, a.used.sent, a.used.read, a.used.written)))
        for a in accounts
    ]  # fmt: skip


def _long(seconds: float, unit: str) -> str:
    """Something times seconds, in hours as soon as it fills one."""
    return f"{seconds / 3600:.2f} {unit}h" if seconds >= 3600 else f"{seconds:.1f} {unit}s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _bits(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, factor in (("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f}{unit}"
    return f"{value:.0f}bit"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{show_about(value)}/s" if value >= 1 else "0"
