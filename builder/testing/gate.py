"""The static tests as a gate: an image comes into the catalog, or stays what its name means, only if they hold."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import WorkFailed
from builder.images.manifest import Manifest
from builder.language.flat import Flat
from builder.layers import LayerStore
from builder.plan import Report
from builder.run import stop_all
from builder.testing import record, session, static
from builder.testing.session import Outcome


def guarded(
    flat: Flat, layers: Sequence[str], store: LayerStore, into: Path, make: Callable[[], Manifest],
    report: Report, proven: Outcome | None,
) -> Manifest:  # fmt: skip
    """What `make` makes in `into`, if the tests hold on its layers; both are at work at once.

    proven  what the tests said of these layers, if they ran already
    Raises WorkFailed with the tests that failed.
    """
    if not flat.tests:
        return make()
    with ThreadPoolExecutor(1) as beside:
        ran = beside.submit(lambda: proven or static.run(flat, layers, store, report))
        try:
            made = make()
        except KeyboardInterrupt:
            stop_all()
            raise
        outcome = ran.result()
    demand(flat, outcome)
    note(flat, outcome, into)
    return made


def again(
    flat: Flat, layers: Sequence[str], store: LayerStore, folder: Path, report: Report,
    proven: Outcome | None,
) -> None:  # fmt: skip
    """Of an image that is there: run the tests if others are known of it. WorkFailed if they fail.

    Without its layers they cannot run here; `phx test` makes these again.
    """
    known = record.read(folder).get("static")
    if not flat.tests or (
        not proven and known and known.tests == session.digest(flat) and not known.failed
    ):
        return
    if not proven and not all(store.has(layer) for layer in layers):
        report(
            f"{flat.name}: its tests changed and its layers are gone: phx test {flat.called} runs them"
        )
        return
    outcome = proven or static.run(flat, layers, store, report)
    note(flat, outcome, folder)
    demand(flat, outcome)


def note(flat: Flat, outcome: Outcome, folder: Path) -> None:
    """Remember beside the image how they ended."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record.note(folder, outcome.kind, record.ran(outcome, session.digest(flat), now))


def demand(flat: Flat, outcome: Outcome) -> None:
    """WorkFailed if a test failed."""
    if outcome.failed:
        raise WorkFailed(
            f"{flat.name}: {outcome.told} of its {outcome.kind} tests:\n{session.failures([outcome])}",
            f"the name {flat.name} stays with the image that it had; phx test {flat.called} runs them again",
        )
