"""What was agreed with nodes since their cluster file was written, and what each is promised by both. Pure.

A term stands until the file says something else of the same key than it did then: what was said last holds. One of a
node goes before one of its role, and one of a role ends those of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from cluster.guarantee import Guarantee


@dataclass(frozen=True, slots=True)
class Term:
    """One number of a guarantee that was agreed later than the file.

    node   "" for all nodes of the role, those to come included
    field  of Guarantee
    file   what the file said of it then
    time   UTC, ISO 8601
    """

    role: str
    node: str
    field: str
    value: int
    file: int
    time: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A change of one node's guarantee that has begun. `agreed` when it holds and only has to be finished."""

    cluster: str
    node: str
    before: Guarantee
    after: Guarantee
    agreed: bool = False

    @property
    def goal(self) -> Guarantee:
        """What whoever finds it has to bring about."""
        return self.after if self.agreed else self.before

    @property
    def most(self) -> Guarantee:
        """What may be in force: the larger of each number."""
        pairs = zip(asdict(self.before).items(), asdict(self.after).values(), strict=True)
        return Guarantee(**{name: max(one, other) for (name, one), other in pairs})


def in_force(terms: Iterable[Term], written: Mapping[str, Guarantee]) -> list[Term]:
    """Those that the file has not overtaken. `written` has each role's guarantee as the file says it."""
    return [
        t for t in terms if t.role in written and getattr(written[t.role], t.field) == t.file
    ]  # fmt: skip


def promised(node: str, role: str, written: Guarantee, terms: Iterable[Term]) -> Guarantee:
    """What a node is promised. `terms` may be anybody's."""
    valid = in_force(terms, {role: written})
    for_all = {t.field: t.value for t in valid if not t.node}
    for_one = {t.field: t.value for t in valid if t.node == node}
    return replace(written, **{**for_all, **for_one})


def agreed(
    terms: Iterable[Term],
    role: str,
    node: str,
    written: Guarantee,
    wanted: Mapping[str, int],
    time: str,
) -> tuple[Term, ...]:
    """All terms of a cluster after a node, or with node "" a role, was granted what it asked for.

    What the file says anyway needs no term.
    """
    kept = [
        t for t in terms
        if not (t.role == role and t.field in wanted and (not node or t.node == node))
    ]  # fmt: skip
    for field, value in wanted.items():
        theirs = next(
            (t.value for t in kept if t.role == role and not t.node and t.field == field), None
        )
        says = getattr(written, field)
        if value != (says if theirs is None else theirs):
            kept.append(Term(role, node, field, value, says, time))
    return tuple(sorted(kept, key=lambda t: (t.role, t.node, t.field)))
