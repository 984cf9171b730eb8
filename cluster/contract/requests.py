"""What guests ask for of their own guarantees is heard over their channels, held against what their owner allows,
granted as `phx set` grants it, and answered. Served by `phx tick`.

A node proves itself by its token, and is never heard for another. An answer is kept before it is told: a request that
is heard again, because the answer was lost, is answered alike and not made twice.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping

from builder.errors import EnvironmentLacks, InputError, NoRoom, PhiloxeniaError, explain
from builder.plan import Report
from cluster import launch, occupancy, ready
from cluster.contract import asked, renegotiate
from cluster.contract.negotiable import Asked, within
from cluster.contract.renegotiate import Whom
from cluster.hosts import store
from cluster.ledger import ClusterRow
from cluster.site import Site
from cluster.spec import ClusterSpec
from contextualize.broker import Broker
from contextualize.identity import derive
from contextualize.message import Request, Said

LISTEN, BY_HTTPS = 2.0, 4.0
"""Seconds in which nodes have said what they ask for; those that come by HTTPS try every two seconds."""
HEARD = 5.0
"""Seconds more that a node has to say that it heard its answer."""
PAUSE = 10.0
"""Seconds between two requests of one node."""


def answer(site: Site, now: datetime.datetime, report: Report) -> list[Asked]:
    """Hear and answer the nodes of every cluster whose file has something `negotiable`; what was answered now."""
    found: list[Asked] = []
    for row in site.ledger.clusters():
        if '"negotiable"' in row.spec:
            try:
                found += _serve(site, row, now, report)
            except EnvironmentLacks as cause:
                report(f"the guests of {row.name} cannot be heard: {cause.what}")
    return found


def _serve(site: Site, row: ClusterRow, now: datetime.datetime, report: Report) -> list[Asked]:
    spec, _ = launch.kept(site, row.name)
    roles = {node: role for node, role in spec.names if spec.roles[role].negotiable}
    known = {(a.node, a.name) for a in site.ledger.diary.requests(row.name)}
    with site.free(f"hear-{row.name}") as alone:
        if not alone:
            return []  # another tick does it
        answers = {
            node: decide(site, spec, Whom(row.name, roles[node], node), request, now, report)
            for node, request in sorted(_listen(site, row, spec, roles).items())
        }
        if answers:
            _tell(site, row, spec, {node: roles[node] for node in answers}, answers)
    return [a for a in answers.values() if (a.node, a.name) not in known]


def _listen(
    site: Site, row: ClusterRow, spec: ClusterSpec, roles: Mapping[str, str]
) -> dict[str, Request]:
    """What nodes ask for now. The channels are let go before anything is decided: whoever changes the cluster needs
    them, and a decision waits for whoever does.
    """
    heard: dict[str, Request] = {}

    def hear(said: Said) -> None:
        if isinstance(said, Request):
            heard[said.node] = said

    with site.free(f"cluster-{row.name}") as ours:
        if ours:
            with _broker(site, row, spec, roles, hear, lambda _: None) as (broker, patience):
                until = time.monotonic() + patience
                while (left := until - time.monotonic()) > 0:
                    broker.step(left)
    return {node: request for node, request in heard.items() if request.words}


def _tell(
    site: Site, row: ClusterRow, spec: ClusterSpec, roles: Mapping[str, str], answers: Mapping[str, Asked]
) -> None:  # fmt: skip
    """Tell nodes their answers until they have heard them; who has not is told by the next tick."""
    waiting, untold = set(answers), set[str]()

    def hear(said: Said) -> None:
        # Without words it is over; another request is the next tick's.
        if isinstance(said, Request) and (not said.words or said.name != answers[said.node].name):
            waiting.discard(said.node)

    with site.free(f"cluster-{row.name}") as ours:
        if ours:
            with _broker(site, row, spec, roles, hear, untold.add) as (broker, patience):
                until = time.monotonic() + patience + HEARD
                while waiting and (left := until - time.monotonic()) > 0:
                    for node in untold & waiting:
                        told = answers[node]
                        body = {"answer": told.name, "granted": told.granted, "said": told.said}
                        broker.send(node, dict(body))
                    untold.clear()
                    broker.step(min(left, 0.5))


def decide(
    site: Site, spec: ClusterSpec, whom: Whom, request: Request, now: datetime.datetime, report: Report
) -> Asked:  # fmt: skip
    """The answer to a node's request, made true and kept. One that comes too soon after another is not kept."""
    before = [a for a in site.ledger.diary.requests(whom.cluster) if a.node == whom.node]
    for old in before:
        if old.name == request.name:
            return old
    at = now.isoformat(timespec="seconds")
    if before:
        since = (now - datetime.datetime.fromisoformat(before[-1].time)).total_seconds()
        if since < PAUSE:
            said = f"it asked {since:.0f} s ago; ask again in {PAUSE - since:.0f} s"
            return Asked(whom.cluster, whom.node, request.name, request.words, at, False, said)
    granted, said = _grant(site, spec, whom, request, report)
    found = Asked(whom.cluster, whom.node, request.name, request.words, at, granted, said)
    site.ledger.diary.answer(found)
    how = "granted" if granted else "refused"
    site.ledger.note(
        whom.cluster, whom.node, f"asked from inside for {' '.join(request.words)}: {how}: {said}"
    )
    return found


def _grant(
    site: Site, spec: ClusterSpec, whom: Whom, request: Request, report: Report
) -> tuple[bool, str]:
    try:
        wanted = within(spec.roles[whom.role].negotiable, request.words)
        outcome = renegotiate.renegotiate(site, whom, wanted, False, report)
        host = site.ledger.host(site.ledger.cluster(whom.cluster).host)
        left = occupancy.room(site, host)
    except (InputError, NoRoom) as cause:
        return False, " ".join(explain(cause).removeprefix("error: ").split())
    except PhiloxeniaError as cause:
        # Its causes and hints are the host's own business.
        return False, "the host cannot do it now" if isinstance(cause, EnvironmentLacks) else cause.what  # fmt: skip
    told = "; ".join(line for c in outcome.changes for line in asked.told(c.before, c.after))
    return True, f"{told or 'it has that already'}; {left}"


@contextlib.contextmanager
def _broker(
    site: Site,
    row: ClusterRow,
    spec: ClusterSpec,
    roles: Mapping[str, str],
    hear: Callable[[Said], None],
    opened: Callable[[str], None],
) -> Iterator[tuple[Broker, float]]:
    """A broker over the channels of these nodes, and how long they need to be heard."""
    tokens = {node: derive(row.secret, row.name, node).token for node in roles}
    by_https = {node for node, role in roles.items() if spec.roles[role].channel == "https"}
    paths = {node: store.channel(row.name, node) for node in tokens.keys() - by_https}
    with contextlib.ExitStack() as stack:
        _, reach = stack.enter_context(occupancy.connected(site, site.ledger.host(row.host)))
        sockets = stack.enter_context(reach.sockets(paths))
        doorway = None
        if by_https:
            net = ipaddress.IPv4Network(row.network)
            doorway = stack.enter_context(ready.entrance(reach, row.name, net, row.secret, tokens))
        channels = {node: (sockets.get(node), token) for node, token in tokens.items()}
        broker = Broker(channels, hear, lambda *_: None, opened, doorway)
        yield stack.enter_context(broker), BY_HTTPS if by_https else LISTEN
