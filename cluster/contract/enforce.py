"""A guarantee made true of nodes that are there: each setting told, read back and waited for, all or none of them.

A change is journalled in the ledger before its first setting is made. Whoever finds it there later takes it back, or
finishes it if it had been agreed (see `Intent`), so no node stays between two guarantees.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.errors import PhiloxeniaError, TimedOut, WorkFailed
from builder.plan import Report
from builder.units import show_size
from cluster import domain, network
from cluster.contract.papers import Papers
from cluster.contract.terms import Intent, Term
from cluster.guarantee import Balloon, CpuTune, Credit, Guarantee, Setting, Throttle, settings
from cluster.hosts.host import Host
from cluster.hosts.port import Hypervisor
from cluster.hosts.reach import Reach
from cluster.hosts.shaping import Shape

PATIENCE = 20.0
"""Seconds that a guest's balloon may take; an emulated one gives back 100 MiB in about a second."""
RESERVE = 32 << 20
"""Bytes that a guest keeps of what it calls usable: the moment after it may need them."""
STILL = 8.0
"""Seconds in which a balloon that will get there has moved."""


@dataclass(frozen=True, slots=True)
class Change:
    """One node's guarantee, before and after."""

    node: str
    before: Guarantee
    after: Guarantee


@dataclass(slots=True)
class Enforcer:
    """What enforces the guarantees of one cluster's nodes on one host."""

    cluster: str
    host: Host
    hypervisor: Hypervisor
    reach: Reach
    papers: Papers
    report: Report

    def hold(self, node: str, given: Guarantee) -> tuple[str, ...]:
        """Make whatever is not in force of it; the resources for which something had to be set.

        A node that is off gets what its definition can hold; the rest follows at its start.
        Raises WorkFailed when something is refused, or reads back otherwise; TimedOut when a balloon does not move.
        """
        name, changed = self._name(node), self.tell(node, given)
        now = self.hypervisor.tuned(name)
        if now.running and self._shape(node, given):
            changed = (*changed, "network")
        # Memory last: it takes its time, and alone can harm the guest.
        balloon = Balloon(given.memory_min)
        if not now.holds(balloon):
            if now.running:
                self._spared(node, now.balloon.memory - balloon.memory)
            self.hypervisor.tune(name, balloon)
            self._reached(node, balloon)
            changed = (*changed, "memory")
        return changed

    def tell(self, node: str, given: Guarantee, balloons: bool = False) -> tuple[str, ...]:
        """The same of what is in force at once and not bandwidth. `balloons` are told too, and not waited for."""
        name, changed = self._name(node), []
        now = self.hypervisor.tuned(name)
        for setting in settings(given, self.host.driver, self.host.cgroup, self.host.cpu):
            if not now.holds(setting) and (balloons or not isinstance(setting, Balloon)):
                self.hypervisor.tune(name, setting)
                if not isinstance(setting, Balloon):
                    self._reached(node, setting)
                changed.append(resource(setting))
        return tuple(changed)

    def carry_out(self, changes: Sequence[Change], terms: Iterable[Term] | None = None) -> None:
        """Make all changes, and these terms the cluster's; or leave everything as it was, and raise why.

        Settle what is under way first.
        """
        intents = [Intent(self.cluster, c.node, c.before, c.after) for c in changes]
        self.papers.begin(intents)
        begun: list[Intent] = []
        try:
            for intent in intents:
                begun.append(intent)
                self.hold(intent.node, intent.after)
        except (PhiloxeniaError, KeyboardInterrupt) as cause:
            self._take_back(reversed(begun))
            if isinstance(cause, KeyboardInterrupt):
                raise
            what = f"{begun[-1].node} cannot have it; everything is as it was"
            raise WorkFailed(what) from cause
        self.papers.agree(self.cluster, terms)
        for intent in intents:
            self._mark(intent.node, intent.after)
        self.papers.end(self.cluster)

    def settle(self) -> tuple[str, ...]:
        """Take back or finish what somebody began and did not end; a line for each node."""
        said = []
        there = {s.name for s in self.hypervisor.observe()}
        for intent in (i for i in self.papers.intents() if i.cluster == self.cluster):
            if self._name(intent.node) in there:
                self._back_to(intent.node, intent.goal)
                self._mark(intent.node, intent.goal)
                did = "finished" if intent.agreed else "taken back"
                said.append(f"{intent.node}: a change that had been cut off was {did}")
        self.papers.end(self.cluster)
        for line in said:
            self.report(line)
        return tuple(said)

    def _take_back(self, intents: Iterable[Intent]) -> None:
        for intent in intents:
            try:
                self._back_to(intent.node, intent.before)
            except PhiloxeniaError as cause:
                what = f"{intent.node} could not be set back to what it had"
                raise WorkFailed(what, f"phx guarantees {self.cluster} shows what is in force; "
                                       "the next phx set or phx up tries again") from cause  # fmt: skip
        self.papers.end(self.cluster)

    def _back_to(self, node: str, given: Guarantee) -> None:
        """Hold it. A balloon that has been told and does not follow is said, and is for all to see: it stops nobody."""
        self.tell(node, given, balloons=True)
        if self.hypervisor.tuned(self._name(node)).running:
            self._shape(node, given)
        try:
            self._reached(node, Balloon(given.memory_min))
        except TimedOut as cause:
            self.report(f"{node}: {cause.what}; phx guarantees {self.cluster} shows it")

    def _shape(self, node: str, given: Guarantee) -> bool:
        with self.reach.queues() as queues:
            return queues.ensure(network.tap(self.cluster, node), *shapes(given))

    def _mark(self, node: str, given: Guarantee) -> None:
        self.hypervisor.remark(self._name(node), given)

    def _name(self, node: str) -> str:
        return domain.name(self.cluster, node)

    def _spared(self, node: str, less: int) -> None:
        """WorkFailed if the guest uses what it shall give back: its kernel would end its programs, or die itself."""
        has = self.hypervisor.spare(self._name(node)) if less > 0 else None
        if has is not None and less > has - RESERVE:
            told = show_size(max(0, has - RESERVE) >> 20 << 20)
            what = f"{node} is asked to give back {show_size(less)}, and could do without {told}"
            raise WorkFailed(what, "end something in it, or ask for less")

    def _reached(self, node: str, setting: Setting) -> None:
        """Return when it is in force. Only a balloon takes its time."""
        name = self._name(node)
        now = self.hypervisor.tuned(name)
        if not (isinstance(setting, Balloon) and now.running):
            if not now.holds(setting):
                found = {"cpu": now.cpu, "memory": now.balloon}.get(resource(setting), now.throttle)
                raise WorkFailed(f"{node} was told {setting}, and {found} is in force")
            return
        started = moved = time.monotonic()
        while not now.holds(setting):
            at = time.monotonic()
            if at - started > PATIENCE or at - moved > STILL:
                still = show_size(now.balloon.memory)
                raise TimedOut(
                    f"{node}'s balloon was told {show_size(setting.memory)}, and the guest has {still}",
                    "it gives back what it does not use: end something in it, or ask for less; "
                    "its kernel needs a balloon driver",
                )  # fmt: skip
            time.sleep(0.1)
            last, now = now, self.hypervisor.tuned(name)
            if now.balloon != last.balloon:
                moved = time.monotonic()


def resource(setting: Setting) -> str:
    """What people call it."""
    match setting:
        case CpuTune() | Credit():
            return "cpu"
        case Balloon():
            return "memory"
        case Throttle():
            return "disk i/o"


def shapes(given: Guarantee) -> tuple[Shape, Shape]:
    """What is held of bandwidth (to the guest, from the guest)."""
    return Shape(given.in_guarantee, given.in_limit), Shape(given.out_guarantee, given.out_limit)
