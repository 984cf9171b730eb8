"""`phx top`, `phx usage`, `phx metrics`: what nodes use, what owners held and used, and both for Prometheus."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli import Json
from builder.terminal import Terminal
from cluster.hosts.cli import here
from cluster.membership import until_interrupted

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from cluster.metering.metrics import Seen
    from cluster.metering.usage import Use
    from cluster.site import Site

SMALLEST = 0.1
"""Seconds: counters of CPU time are kept in hundredths."""


def register(app: typer.Typer) -> None:
    app.command("top")(top)
    app.command("usage")(usage)
    app.command("metrics")(metrics)


def top(
    cluster: Annotated[str | None, typer.Argument(help="One cluster; else all.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=SMALLEST)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, tell, and end.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Lines for a spreadsheet.")] = False,
    as_json: Json = False,
) -> None:
    """Show what each node uses beside what it is promised, again and again; Ctrl-C ends it."""
    from cluster.metering.look import Watch

    site = here()
    names = None if cluster is None else {site.ledger.cluster(cluster).name}
    with (
        contextlib.closing(Watch(site, names)) as watch,
        until_interrupted(),
        _teller(once, as_csv, as_json) as tell,
    ):
        watch.uses()
        while True:
            time.sleep(interval)
            found = watch.uses()
            if watch.silent and not found:
                raise next(iter(watch.silent.values()))
            tell(found)
            if once:
                return


@contextlib.contextmanager
def _teller(once: bool, as_csv: bool, as_json: bool) -> Iterator[Any]:
    """How one look is told: as JSON, CSV, a table that stays in its place, or one below the other."""
    from cluster.metering import show

    terminal = Terminal()
    heads_told = False

    def rows(uses: Sequence[Use]) -> list[dict[str, Any]]:
        now = datetime.datetime.now(datetime.UTC)
        return [show.use_data(use, now) for use in uses]

    def json(uses: Sequence[Use]) -> None:
        if once:
            terminal.json(rows(uses))
        else:
            for row in rows(uses):
                terminal.line(row)

    def spreadsheet(uses: Sequence[Use]) -> None:
        nonlocal heads_told
        for row in rows(uses):
            if not heads_told:
                terminal.say(_csv(list(row)))
                heads_told = True
            terminal.say(_csv(list(row.values())))

    def plain(uses: Sequence[Use]) -> None:
        terminal.table(show.USE_HEADS, [show.use_cells(use) for use in uses])

    if as_json or as_csv or once or not sys.stdout.isatty():
        yield json if as_json else spreadsheet if as_csv else plain
        return
    from rich.live import Live
    from rich.table import Table

    with Live(auto_refresh=False, screen=True) as live:

        def drawn(uses: Sequence[Use]) -> None:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for head in show.USE_HEADS:
                table.add_column(head, no_wrap=True)
            for use in uses:
                table.add_row(*show.use_cells(use), style="bold red" if use.starved else None)
            live.update(table, refresh=True)

        yield drawn


def _csv(values: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["" if v is None else v for v in values])
    return line.getvalue()


def usage(
    cluster: Annotated[str | None, typer.Option(help="Of one cluster, gone or not.")] = None,
    owner: Annotated[str | None, typer.Option(help="Of one owner.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As in 24h, 7d or 2026-11-25; else from the first."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what clusters and their owners held and used; what is gone is told as well."""
    from cluster.metering import show
    from cluster.metering.look import Watch

    terminal, site = Terminal(), here()
    until = datetime.datetime.now(datetime.UTC)
    start = _time(since, until)
    with contextlib.closing(Watch(site)) as watch:
        watch.look()  # what runs is counted up to now
        for host in watch.silent:
            terminal.report(
                f"host '{host}' does not answer: what its nodes used since the last look is missing"
            )
    found = [
        a for a in _accounts(site, start, until)
        if (cluster is None or a.cluster == cluster) and (owner is None or a.owner == owner)
    ]  # fmt: skip
    if as_json:
        terminal.json([show.account_data(a, start if since else None, until) for a in found])
    elif found:
        terminal.table(show.ACCOUNT_HEADS, show.account_cells(found))
    else:
        terminal.say("nothing was held or used")


def _accounts(site: Site, since: datetime.datetime, until: datetime.datetime) -> Sequence[Any]:
    from cluster.metering.account import accounts

    books = site.ledger.books
    return accounts(books.holdings(), books.used(since, until), since, until)


FIRST = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _time(text: str | None, now: datetime.datetime) -> datetime.datetime:
    """A moment as people write it: so long ago, or a date with or without a time; of this machine's zone."""
    from builder.errors import InputError, Problem
    from builder.units import duration

    if text is None:
        return FIRST
    with contextlib.suppress(ValueError):
        return now - datetime.timedelta(seconds=duration(text))
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        hint = "write 24h, 7d, 2026-11-25 or 2026-11-25T12:00"
        raise InputError(Problem("--since", f"'{text}' is not a time", hint)) from None


def metrics(
    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", help="Serve them until Ctrl-C, as in 127.0.0.1:9177."),
    ] = None,
) -> None:
    """Print what nodes use and are promised as metrics for Prometheus, or serve them."""
    from cluster.metering.look import Watch
    from cluster.metering.metrics import Seen, registry, text

    terminal, site = Terminal(), here()
    turn = threading.Lock()  # scrapes come in threads of their own

    with contextlib.closing(Watch(site)) as watch:

        def see() -> Seen:
            with turn:
                samples = watch.look()
                now = datetime.datetime.now(datetime.UTC)
                return Seen(samples, list(watch.silent), _accounts(site, FIRST, now))

        if listen is None:
            terminal.say(text(see).rstrip())
            return
        address, port = _address(listen)
        with until_interrupted(), _serving(registry(see), address, port) as chosen:
            terminal.report(f"metrics at http://{address}:{chosen}/metrics")
            while True:
                time.sleep(3600)


@contextlib.contextmanager
def _serving(metrics: CollectorRegistry, address: str, port: int) -> Iterator[int]:
    """An HTTP server for scrapes, and its port. WorkFailed if it cannot listen there."""
    from prometheus_client import start_http_server

    from builder.errors import WorkFailed

    try:
        server, thread = start_http_server(port, address, metrics)
    except OSError as cause:
        raise WorkFailed(f"cannot listen at {address}:{port}", "choose another --listen") from cause
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(text: str) -> tuple[str, int]:
    from builder.errors import InputError, Problem

    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise InputError(
            Problem("--listen", f"'{text}' is not ADDRESS:PORT", "write it as in 127.0.0.1:9177")
        )
    return address, int(port)
