"""One cluster made ready without guests, for `context.py`: `python -m tests.bench.ready NODES WAY`.

The plan, the broker, the coordinator, the wait and the ledger are the real ones; the agents are two processes of
`crowd.py`; nothing but the hypervisor is invented. WAY:

    seeds   identities are in the seeds, as `phx up` does it; facts are exchanged
    news    no node knows its peers yet: every document goes out with all that is in it
    https   as seeds, by HTTPS
    change  as seeds, and then one node more, in a cluster whose workers see the head only; the head knows them all

Prints one JSON object.
"""

from __future__ import annotations

import ipaddress
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.document import check, parse
from cluster import concern, wait
from cluster.hosts.fake import FakeHypervisor
from cluster.ledger import ClusterRow, Ledger, NodeRow
from cluster.plan import ClusterPlan, draw
from cluster.spec import ClusterSpec, declared
from contextualize import doorway as doors
from contextualize.certificate import certificate
from contextualize.context import Context
from contextualize.coordinator import Coordinator
from contextualize.render import Documents
from tests.invented import FOLDER, IMAGE, LAB, SECRET

TEXT = """\
cluster: c
network: 10.64.0.0/16
deadline: 600s
roles:
  head:
    image: worker
    cpu: {guarantee: 0.1, limit: 1}
    memory: 64M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    ssh_to: [worker]
    context:
      provides: [{name: key, secret: true, to: [worker]}, {name: up, tcp: 6817}]
      files: [{path: /etc/nodes, content: "{% for w in roles.worker %}{{ w.name }} {{ w.address }}\\n{% endfor %}"}]
      REQUIRES
  worker:
    count: COUNT
    image: worker
    cpu: {guarantee: 0.1, limit: 1}
    memory: 64M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    CHANNEL
    context:
      SEES
      provides: [{name: id}]
      requires: [{fact: key}, {fact: up, from: head}]
      files: [{path: /etc/head, content: "{{ roles.head[0].address }} {{ facts.key }}\\n"}]
"""
CROWDS = 2


def plan(nodes: int, way: str) -> tuple[ClusterSpec, ClusterPlan]:
    text = TEXT.replace("COUNT", str(nodes - 1))
    text = text.replace("SEES", "sees: [head]" if way == "change" else "healthy: []")
    alone = way == "change"  # nobody depends on one worker more than to know it
    needs = "requires: [{fact: id, of: all, before: healthy}]"
    text = text.replace("REQUIRES", "healthy: []" if alone else needs)
    text = text.replace("CHANNEL", "channel: https" if way == "https" else "channel: virtio")
    document = parse(text, "c.yaml")
    spec = check(document, ClusterSpec)
    said = {role: declared(spec, document, role) for role in spec.roles}
    net = ipaddress.IPv4Network("10.64.0.0/16")
    return spec, draw(spec, LAB, net, {"worker": (IMAGE, FOLDER)}, SECRET, said)


class Machines(FakeHypervisor):
    """Every machine runs."""

    def alive(self) -> frozenset[str]:
        return frozenset(s.name for s in self.seen)


class Bench:
    def __init__(self, folder: Path, nodes: int, way: str) -> None:
        self.folder, self.way = folder, way
        self.spec, self.plan = plan(nodes, way)
        self.ledger = Ledger(folder)
        rows = [NodeRow("c", n.name, n.role, n.address) for n in self.plan.nodes]
        network = str(self.plan.network)
        self.ledger.open_cluster(ClusterRow("c", "lab", network, "", SECRET, "now"), rows)
        self.crowds: list[subprocess.Popen[str]] = []
        self.listening = doors.socket.create_server(("127.0.0.1", 0), backlog=4096)

    def crowd(self, plan: ClusterPlan, names: list[str]) -> None:
        held = {}
        if self.way != "news":
            for role in ("head", "worker"):
                first = next((n.name for n in plan.nodes if n.role == role and n.name in names), "")
                if first:
                    held[role] = plan.documents.document(first, missing=["key"])
        nodes = []
        wanted = set(names)
        for n in (n for n in plan.nodes if n.name in wanted):
            facts = {"key": "k", "up": None} if n.role == "head" else {"id": n.name}
            where: dict[str, Any] = {"path": str(self.folder / n.name)}
            if n.machine.channel == "":
                address, port = self.listening.getsockname()
                pin = certificate(SECRET, "c").pin
                where = {"https": {"address": address, "port": port, "pin": pin}}
            token = n.identity.token.reveal().decode()
            nodes.append({"node": n.name, "role": n.role, "token": token, "facts": facts, **where})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.crowd"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps({"boot": "b", "held": held, "nodes": nodes}) + "\n")
        process.stdin.flush()
        self.crowds.append(process)

    def heard(self) -> dict[str, int]:
        """Node -> lines of ours that it has heard."""
        found: dict[str, int] = {}
        for process in self.crowds:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found |= json.loads(process.stdout.readline())
        return found

    def ready(self, plan: ClusterPlan, touched: set[str]) -> tuple[float, int]:
        """Seconds until all that are due are healthy, and how many nodes were listened to."""
        started = time.monotonic()
        rows = {r.name: r for r in self.ledger.nodes("c")}
        due = concern.due(plan, rows, touched)
        others = concern.heard(plan, due, rows, touched)
        names = due | others
        watched = [
            wait.Watched(
                rows[n.name], n.domain, self.folder / n.name if n.machine.channel else None,
                n.identity.token, plan.documents.base(n.name), n.name in due,
            )
            for n in plan.nodes if n.name in names
        ]  # fmt: skip
        least = {name: role.least for name, role in self.spec.roles.items()}
        coordinator = Coordinator(plan.documents, plan.exchange(least), names, (), others)
        machines = Machines()
        machines.seen = [Seen(n.domain) for n in plan.nodes]  # type: ignore[attr-defined]
        limits = wait.Limits(600)

        def tell(rows: Any) -> None:
            self.ledger.tell(*rows, notes=[("c", r.name, r.stage) for r in rows])

        def run(door: Any) -> Mapping[str, NodeRow]:
            return wait.Wait(
                watched, coordinator, machines, limits, tell, lambda _: "", lambda _: None, door
            ).until_ready()

        if self.way == "https":
            tokens = {n.name: n.identity.token for n in plan.nodes}
            with doors.Doorway(self.listening, certificate(SECRET, "c"), tokens) as door:
                found = run(door)
        else:
            found = run(None)
        assert {r.stage for r in found.values()} == {"healthy"}
        return time.monotonic() - started, len(watched)

    def close(self) -> None:
        for process in self.crowds:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


class Seen:
    def __init__(self, name: str) -> None:
        self.name, self.state = name, "running"


class Noted(Documents):
    """Documents that note for which nodes one was made."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.made: set[str] = set()

    def told(self, node: str, alike: Any) -> dict[str, Any]:
        self.made.add(node)
        return super().told(node, alike)


def main() -> None:
    nodes, way = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        bench = Bench(Path(name), nodes, way)
        planned = time.monotonic() - started
        names = [n.name for n in bench.plan.nodes]
        for one in range(CROWDS):
            bench.crowd(bench.plan, names[one::CROWDS])
        if way != "https":  # those come in when somebody is there
            for process in bench.crowds:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
        before = resource.getrusage(resource.RUSAGE_SELF)
        took, heard = bench.ready(bench.plan, set(names))
        after = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "planned": planned, "ready": took, "memory": after.ru_maxrss / 1024,
            "ours": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        }  # fmt: skip
        if way == "change":
            counts = bench.heard()
            bench.spec, more = plan(nodes + 1, way)
            noted = Noted(more.context)
            more = replace(more, documents=noted)
            added = sorted({n.name for n in more.nodes} - set(names))
            bench.ledger.open_cluster(
                ClusterRow("c", "lab", str(more.network), "", SECRET, "now"),
                [NodeRow("c", n.name, n.role, n.address) for n in more.nodes if n.name in added],
            )
            bench.crowd(more, added)
            assert bench.crowds[-1].stdout is not None
            bench.crowds[-1].stdout.readline()
            took, heard = bench.ready(more, set(added))
            counts_after = bench.heard()
            found |= {
                "change": took, "listened": heard, "others": len(noted.made - {"head-1", *added}),
                "told": sum(counts_after[n] != counts.get(n, 0) for n in counts_after),
            }  # fmt: skip
        bench.close()
        print(json.dumps(found))


if __name__ == "__main__":
    main()
