"""Which nodes a change concerns: those that must become ready again, and those that must be heard because of them.

Pure. All others are left alone: no connection, no word, nothing rendered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from cluster.ledger import NodeRow
from cluster.plan import ClusterPlan
from contextualize.declared import givers


def due(plan: ClusterPlan, rows: Mapping[str, NodeRow], touched: Collection[str]) -> set[str]:
    """Nodes with another machine, not healthy yet, or with something new to learn.

    touched  nodes that were launched, resumed or replaced
    """
    return {
        n.name for n in plan.nodes
        if n.name in touched or rows[n.name].stage != "healthy"
        or rows[n.name].context != plan.documents.base(n.name)
    }  # fmt: skip


def heard(
    plan: ClusterPlan, due: Collection[str], rows: Mapping[str, NodeRow], touched: Collection[str],
    gone: Iterable[str] = (),
) -> set[str]:  # fmt: skip
    """Nodes that need not change, but read what others may give anew or no more, or give what any of these require.

    A node that was healthy and runs on gives nothing anew: what it has to learn concerns nobody else.
    """
    declared = plan.documents.context.declared
    wants = {
        name: {giver for need in role.requires
               for giver in ([need.role] if need.stage else givers(declared, need))}
        for name, role in declared.items()
    }  # fmt: skip
    moved = {
        n.role for n in plan.nodes
        if n.name in due and (n.name in touched or rows[n.name].stage != "healthy")
    }  # fmt: skip
    moved |= {node.rpartition("-")[0] for node in gone}
    roles = {n.role for n in plan.nodes if n.name in due}
    readers = {name for name, of in wants.items() if of & moved}
    givers_ = {giver for name in (roles | readers) & wants.keys() for giver in wants[name]}
    return {n.name for n in plan.nodes if n.role in readers | givers_} - set(due)
