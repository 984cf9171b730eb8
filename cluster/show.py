"""Plans and nodes as people and programs read them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, assert_never

from builder.errors import PhiloxeniaError
from builder.units import show_size
from cluster import network
from cluster.actions import Action, Adjust, Flag, Keep, Launch, Meet, Remove, Replace, Resume
from cluster.contract import asked
from cluster.guarantee import KEY_OF, Guarantee, Record, contract, show_rates
from cluster.guard import record
from cluster.plan import ClusterPlan, NodePlan, guarantee

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.terminal import Terminal
    from cluster.draft import Draft
    from cluster.site import Site

HEADS = ("NODE", "ROLE", "ADDRESS", "MACHINE", "STAGE", "CPU", "MEMORY", "NETWORK", "HOST")


def nodes(site: Site, clusters: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each node. `machine` is what the hypervisor says now; a host that does not answer makes it unknown."""
    rows = []
    for cluster in clusters:
        known = site.ledger.cluster(cluster)
        host = site.ledger.host(known.host)
        try:
            hypervisor = site.connect(host)
            try:
                seen = {s.mark.node: s for s in hypervisor.observe() if s.mark.cluster == cluster}
            finally:
                hypervisor.close()
            absent, why = "gone", "phx up launches it"
        except PhiloxeniaError as cause:
            seen, absent, why = {}, "unknown", "; ".join(filter(None, (cause.what, cause.hint)))
        for n in site.ledger.nodes(cluster):
            there = seen.get(n.name)
            machine = there.state if there else absent
            stage = "ready" if n.stage == "healthy" else n.stage
            if there is not None:
                why = ""
                if machine in ("off", "crashed"):
                    why = "phx up starts it again, its disk stays"
                elif machine == "running" and stage == "ready" and not there.vouched:
                    stage, why = (
                        "defined",
                        "started without phx and not known to be ready; phx up waits for that",
                    )
            rows.append(
                {"cluster": cluster, "node": n.name, "role": n.role, "address": n.address, "host": host.name,
                 "machine": machine, "stage": stage if machine == "running" else "-",
                 "why": why, "last": n.stage, "uptime": n.uptime, **_promise(there.mark.guarantee if there else None)}
            )  # fmt: skip
    return rows


def _promise(given: Guarantee | None) -> dict[str, str]:
    if given is None:
        return {"cpu": "-", "memory": "-", "network": "-"}
    return {
        "cpu": f"{given.cpu_guarantee / 1000:g}-{given.cpu_limit / 1000:g}",
        "memory": show_size(given.memory_min),
        "network": show_rates(given, "-"),
    }


def node_table(rows: Sequence[dict[str, Any]], terminal: Terminal) -> None:
    if not rows:
        terminal.say("no nodes; start some: phx up CLUSTER.yaml")
        return
    many = len({r["cluster"] for r in rows}) > 1
    terminal.table(
        HEADS,
        [
            (f"{r['cluster']}/{r['node']}" if many else r["node"], r["role"], r["address"], r["machine"],
             r["stage"], r["cpu"], r["memory"], r["network"], r["host"])
            for r in rows
        ],
    )  # fmt: skip
    for line in remarks(rows):
        terminal.say(line)


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each thing that is not as it should be, with the nodes that it is about."""
    about: dict[str, list[str]] = {}
    for r in (r for r in rows if r["why"]):
        about.setdefault(r["why"], []).append(r["node"])
    return [f"{', '.join(nodes)}: {why}" for why, nodes in about.items()]


def verb(action: Action) -> tuple[str, str, str]:
    """(node, verb, reason) of one action."""
    match action:
        case Launch(node):
            return node.name, "launch", "it is not there"
        case Resume(node, was):
            return node.name, "start", f"it is {was}; its disk stays"
        case Adjust(node, was, "", _):
            told = "; ".join(asked.told(was, node.machine.guarantee))
            return node.name, "adjust", f"{told}, while it runs"
        case Adjust(node, _, why, state):
            does = "start" if state in ("off", "crashed") else "RESTART"
            return node.name, does, f"{why}; its disk stays"
        case Replace(node, why):
            return node.name, "REPLACE", f"{why}; its disk goes"
        case Remove(name, _):
            return name, "REMOVE", "the file does not name it; its disk goes"
        case Meet(node):
            return node.name, "await", "it was started, and no phx has seen it become ready"
        case Flag(node):
            return node.name, "adjust", "; ".join(flagged(action))
        case Keep(node):
            return node.name, "keep", "it runs as it shall"
        case _:
            assert_never(action)


def flagged(flag: Flag) -> list[str]:
    """What libvirt shall know of a node from now on."""
    does = "starts" if flag.node.autostart else "no longer starts"
    told = [f"autostart: it {does} when its host does"] if flag.autostart else []
    told += [f"crash: {flag.node.machine.crash}"] if flag.crash else []
    return told + ([f"cpu.pin: {flag.node.machine.pin}"] if flag.pin else [])


def promised(node: NodePlan) -> tuple[Record, ...]:
    """The node's contract, line by line."""
    m = node.machine
    held = contract(m.guarantee, "xen" if m.virtualization else "qemu", m.cgroup, m.room)
    stays = (Record("cpus", m.pin, "affinity of its virtual CPUs"),) if m.pin else ()
    return (*held, *stays, record(node.guarded))


def _way(plan: ClusterPlan) -> str:
    if plan.uplink is None:
        return "closed"
    return f"goes on through {plan.uplink}, an htb class for each node"


def plan_data(drawn: Draft) -> dict[str, Any]:
    """The plan for programs: no secrets, no keys."""
    doings = {n: (v, why) for n, v, why in map(verb, drawn.actions)}
    return {
        "cluster": drawn.spec.cluster, "new": not drawn.before, "host": drawn.host.name,
        "network": str(drawn.plan.network), "changes": len(drawn.changes),
        "nodes": [
            {"node": n.name, "role": n.machine.role, "address": n.address, "image": n.machine.image,
             "action": doings[n.name][0], "why": doings[n.name][1],
             "contract": {r.resource: [r.asked, r.mechanism] for r in promised(n)}}
            for n in drawn.plan.nodes
        ],
        "removed": [a.node for a in drawn.actions if isinstance(a, Remove)],
        "agreed": [asdict(term) for term in drawn.terms],
    }  # fmt: skip


def plan(drawn: Draft, terminal: Terminal) -> None:
    spec = drawn.spec
    total = sum(n.machine.guarantee.cpu_guarantee for n in drawn.plan.nodes)
    memory = sum(n.machine.guarantee.memory_min for n in drawn.plan.nodes)
    terminal.say(
        f"cluster {spec.cluster}{'' if drawn.before else ' (new)'} on host {drawn.host.name}\n"
        f"network {drawn.plan.network}, {_way(drawn.plan)}; {network.gateway(drawn.plan.network)} is the host\n"
        f"promised in all: {total / 1000:g} of {drawn.host.cpu / 1000:g} cores, "
        f"{show_size(memory)} of {show_size(drawn.host.memory)}\n"
    )
    addresses = {n.name: n for n in drawn.plan.nodes}
    rows = []
    for node, does, why in map(verb, drawn.actions):
        n = addresses.get(node)
        rows.append(
            (
                node,
                n.machine.role if n else "-",
                n.address if n else "-",
                n.machine.image[:12] if n else "-",
                does,
                why,
            )
        )
    terminal.table(("NODE", "ROLE", "ADDRESS", "IMAGE", "ACTION", "BECAUSE"), rows)
    for role in spec.roles:
        first = next(n for n in drawn.plan.nodes if n.machine.role == role)
        terminal.say(f"\neach {role} is promised")
        terminal.table(
            ("  RESOURCE", "ASKED", "HELD BY"),
            [(f"  {r.resource}", r.asked, r.mechanism) for r in promised(first)],
        )
        if spec.roles[role].ssh_to:
            terminal.say(f"  and may enter by SSH: {', '.join(spec.roles[role].ssh_to)}")
    if drawn.terms:
        terminal.say("\nagreed since the file was written (phx set)")
        told = [(t, KEY_OF[t.field], guarantee(spec.roles[t.role])) for t in drawn.terms]
        terminal.table(
            ("  FOR", "KEY", "AGREED", "FILE", "SINCE"),
            [(f"  {t.node or f'each {t.role}'}", key, asked.written(key, replace(by_file, **{t.field: t.value})),
              asked.written(key, by_file), t.time) for t, key, by_file in told],
        )  # fmt: skip
    changes = len(drawn.changes)
    terminal.say(f"\n{changes} changes; phx up does them" if changes else "\nno changes")
