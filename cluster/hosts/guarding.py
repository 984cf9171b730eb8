"""The guard's rules in a host's kernel: compared with what is there, set by nft in one transaction, taken away."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from builder.errors import CommandFailed, EnvironmentLacks, WorkFailed
from cluster import network
from cluster.guard import Sender, Standing, differing, ruleset, senders, standing, table_names
from cluster.hosts import hook
from cluster.hosts.host import STATE
from cluster.hosts.reach import Reach

QUICK = 60.0
"""Seconds for nft: it takes 10 ms for a few guests and 1 s for ten thousand; a host may be emulated."""
_MISSING = 127
_PATH = "PATH=$PATH:/usr/sbin:/sbin; command -v nft >/dev/null || exit 127; "
# What nft makes of its input, in a namespace with nothing in it; then what is in force. A line each.
_BOTH = (
    f'{_PATH}unshare --net sh -c "nft -f - && nft -j list ruleset" || exit 1; echo; '
    'nft -j list table bridge "$1" 2>/dev/null || :'
)
_SUM = 'sha256sum "$1" 2>/dev/null || :'
_NOW = f'{_PATH}nft -j list table bridge "$1" 2>/dev/null || :'
_TABLES = f"{_PATH}exec nft -j list tables bridge"
_SET = f"{_PATH}exec nft -f -"
# The same, kept for a host's hook, which loads it where nobody has since the host was started.
_KEEP = f'{_PATH}umask 077; mkdir -p "${{1%/*}}" && cat >"$1.new" && nft -f "$1.new" && mv "$1.new" "$1"'


def demand(reach: Reach) -> None:
    """EnvironmentLacks unless the host can keep guests to their own addresses: tried, in a namespace of its own."""
    _compared(reach, "probe", [Sender("probe", "52:54:00:00:00:01", "10.0.0.1")])


def ensure(
    reach: Reach, cluster: str, wanted: Iterable[Sender], leaving: Collection[str] = ()
) -> tuple[str, ...]:
    """Let the cluster's rules be those of `wanted`; the taps for which something had to be set.

    leaving  taps whose guests still run and are not wanted any more: they keep the rules that they have
    Raises EnvironmentLacks if the host cannot, WorkFailed if the rules read back otherwise than they were set.
    """
    held = list(wanted)
    shall, now = _compared(reach, cluster, held)
    if staying := [s for tap, s in senders(now).items() if tap in leaving]:
        held += staying
        shall, now = _compared(reach, cluster, held)
    text = ruleset(cluster, held).encode()
    if shall == now and _kept(reach, cluster, text):
        return ()
    changed = differing(shall, now)
    argv = ["sh", "-c", _SET]
    if reach.host.hook:
        argv = ["sh", "-c", _KEEP, "sh", str(STATE / cluster / hook.GUARD)]
    reach.run(argv, timeout=QUICK, data=text)
    shall, now = _compared(reach, cluster, held)
    if shall != now:
        raise WorkFailed(
            f"host '{reach.host.name}': the guard's rules of {cluster} read back otherwise than they were set"
        )
    return changed


def _kept(reach: Reach, cluster: str, text: bytes) -> bool:
    """Whether the host's hook would load these rules, if it has one."""
    if not reach.host.hook:
        return True
    argv = ["sh", "-c", _SUM, "sh", str(STATE / cluster / hook.GUARD)]
    return reach.run(argv, timeout=QUICK).startswith(hashlib.sha256(text).hexdigest())


def compared(reach: Reach, cluster: str, wanted: Iterable[Sender]) -> tuple[Standing, Standing]:
    """(what shall be in force, what is), without changing it. EnvironmentLacks if the host cannot hold it."""
    return _compared(reach, cluster, list(wanted))


def read(reach: Reach, cluster: str) -> Standing:
    """What is in force for the cluster; an empty Standing where there is nothing."""
    try:
        said = reach.run(["sh", "-c", _NOW, "sh", network.name(cluster)], timeout=QUICK)
    except CommandFailed as cause:
        if cause.status == _MISSING:
            return Standing()
        raise
    return standing(said)


def tables(reach: Reach) -> frozenset[str]:
    """Names of all tables of the bridge family on the host; none where it has no nft."""
    try:
        said = reach.run(["sh", "-c", _TABLES], timeout=QUICK)
    except CommandFailed as cause:
        if cause.status == _MISSING:
            return frozenset()
        raise
    return table_names(said)


def remove(reach: Reach, cluster: str) -> None:
    """Take the cluster's rules away. Silent when there are none."""
    if read(reach, cluster).rules:
        reach.run(["sh", "-c", _SET], timeout=QUICK, data=ruleset(cluster, ()).encode())


def _compared(reach: Reach, cluster: str, wanted: list[Sender]) -> tuple[Standing, Standing]:
    argv = ["sh", "-c", _BOTH, "sh", network.name(cluster)]
    try:
        said = reach.run(argv, timeout=QUICK, data=ruleset(cluster, wanted).encode())
    except CommandFailed as cause:
        what = f"host '{reach.host.name}' cannot keep guests to their own addresses"
        if cause.status == _MISSING:
            hint = (
                "apt-get install nftables there, or write source: any in the cluster file's roles"
            )
            raise EnvironmentLacks(f"{what}: it has no nft", hint) from None
        hint = "its kernel needs nf_tables with the bridge family; source: any in the roles does without"
        raise EnvironmentLacks(what, hint) from cause
    shall, _, now = said.partition("\n")
    return standing(shall), standing(now)
