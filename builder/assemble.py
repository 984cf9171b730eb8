"""A build plan carried out: every layer that is missing is made on top of those that are there.

`assemble` may die anywhere; run again, it goes on after the last layer that was committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from builder import downloads, shell
from builder.acts import execute
from builder.chamber import Chamber
from builder.errors import CommandFailed, TimedOut, WorkFailed
from builder.layers import LayerInfo, LayerStore, holding
from builder.packages import pip as wheels
from builder.packages.apt import Apt
from builder.packages.scripts import ScriptFailed
from builder.plan import BuildPlan, Report
from builder.provisions import Caches
from builder.secrets import SURE, Secret, lines_of
from builder.steps import Bootstrap, Install, Pip, Script, Step, Write


def assemble(
    plan: BuildPlan,
    store: LayerStore,
    caches: Caches,
    apt: Apt,
    pip: wheels.Pip,
    report: Report,
    secrets: Mapping[str, Secret] = MappingProxyType({}),
    visit: bool = False,
) -> tuple[str, ...]:
    """Make the plan's missing layers; all layer ids, oldest first.

    apt      fetches the packages of missing layers that are not in the cache yet
    pip      fetches their wheels
    secrets  those that steps of missing layers name
    visit    whether a shell is opened where a step failed, before that is raised

    Raises WorkFailed naming the step; the layers before it are kept and the next run goes on there.
    """
    caches.make()
    ids = plan.layers()
    done = 0
    while done < len(ids) and store.has(ids[done]):
        store.use(ids[done])
        done += 1
    if done:
        report(f"layers 1-{done} of {len(ids)} are there already")
    log = caches.logs / f"build-{plan.name}-{plan.id[:12]}.log"
    for n in range(done, len(ids)):
        step, layer = plan.steps[n], ids[n]
        title = f"layer {n + 1}/{len(ids)} {step.title()}"
        with store.making(layer, lambda t=title: report(f"{t}: waiting for another build")):  # type: ignore[misc]
            if store.has(layer):
                continue
            report(title)
            started = time.monotonic()
            fetch(step, caches, apt, pip, report)
            with store.begin(ids[:n]) as chamber:
                try:
                    execute(step, chamber, caches, log, plan.output.epoch, report, secrets)
                    if isinstance(step, Script):
                        _keeps(chamber, {name: secrets[name] for name in step.secrets})
                except (CommandFailed, TimedOut, ScriptFailed, Leak) as cause:
                    failed = f"step {n + 1}/{len(ids)} failed: {step.title()}"
                    if visit:
                        report(f"{failed}\n{_told(cause)}\n{VISIT}")
                        shell.enter(step, chamber, caches, secrets, plan.output.epoch)
                    raise _failed(failed, cause, log) from cause
                seconds = round(time.monotonic() - started, 2)
                parent = ids[n - 1] if n else ""
                store.commit(chamber, LayerInfo(layer, parent, step.kind, step.title(), seconds))
    return ids


def fetch(step: Step, caches: Caches, apt: Apt, pip: wheels.Pip, report: Report) -> None:
    """Have all that the step needs from elsewhere in the caches."""
    if isinstance(step, Bootstrap | Install):
        apt.fetch(step.locked, report)
    if isinstance(step, Pip):
        pip.fetch(step.fetched(), report)
    if isinstance(step, Write):
        for file in step.fetched():
            downloads.fetch(file.url, file.sha256, caches.files, file.where, report)


VISIT = "a shell in the tree of the step, as its user; its end discards what was done in it"


def _told(cause: WorkFailed) -> str:
    return "\n".join(f"  {line}" for line in cause.what.splitlines())


class Leak(WorkFailed):
    """A step left a secret of the build in its layer."""


def _keeps(chamber: Chamber, secrets: Mapping[str, Secret]) -> None:
    """Leak when the step wrote a secret into the tree: as a file's content, name, link or attribute."""
    for name, secret in secrets.items():
        words = lines_of(secret, SURE)
        if words and (places := holding(chamber.tree, words)):
            raise Leak(
                f"it leaves the secret '{name}' in the image, in {', '.join(places[:3])}",
                "remove it in the same script; what must know it in the guest gets it at deployment",
            )


def _failed(what: str, cause: WorkFailed, log: Path) -> WorkFailed:
    """The failure in the user's terms: a full disk, else the step's own words."""
    if isinstance(cause, Leak):
        return WorkFailed(what, cause.hint)
    said = cause.tail if isinstance(cause, CommandFailed) else ""
    if "No space left on device" in said:
        return WorkFailed(what, "the disk is full; make room, or name another folder with PHX_HOME")
    more = f"; {cause.hint}" if cause.hint else ""
    hint = "finished layers are kept; the same command with --shell opens a shell where it failed"
    return WorkFailed(what, f"everything it said is in {log}; {hint}{more}")
