"""Files fetched from URLs, once: each kept under its sha256, checked whenever it is used, and given to steps as a link.

    <folder>/<sha256>        the file
    <folder>/<sha256>.part   as much of it as came before something went wrong; the next attempt goes on there

Nothing is held in memory but a block at a time. The URL says where to look, the sha256 what it is: a file that is here
is asked of nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

from builder.claims import alone
from builder.errors import WorkFailed
from builder.plan import Report

DEADLINE = 1800.0
"""Seconds for one file, with all attempts."""
SILENCE = 60.0
"""Seconds without a byte after which an attempt is over."""
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; each later pause is twice the one before, at most 15."""
BLOCK = 1 << 20


class Passing(Exception):
    """What may be better at the next attempt."""


def fetch(url: str, sha256: str, folder: Path, where: str, report: Report) -> None:
    """Have the file in the folder.

    where  the line that asks for it, for messages
    Raises WorkFailed when it cannot be had, or is another file than the sha256 says.
    """
    if _is(folder / sha256, sha256):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with alone(
        folder / f"{sha256}.lock", lambda: report(f"{url}: waiting for another build to fetch it")
    ):
        if _is(folder / sha256, sha256):
            return
        report(f"fetching {url}")
        part = folder / f"{sha256}.part"
        went_on = part.exists() and part.stat().st_size > 0
        _get(url, part, where)
        got = _digest(part)
        if got != sha256 and went_on:
            # What was there already may be of another file, from another time or another place.
            part.unlink()
            _get(url, part, where)
            got = _digest(part)
        if got != sha256:
            part.unlink()
            raise WorkFailed(
                f"{where}: {url} gives another file: its sha256 is {got}, the recipe says {sha256}",
                "if the new file is the right one, write its sha256; if not, ask who serves it",
            )
        part.chmod(0o644)
        part.replace(folder / sha256)


def offer(folder: Path, sha256: str, into: Path) -> None:
    """Make the file `into` a link to the one here (or a copy, on another filesystem). WorkFailed if it is not whole."""
    if not _is(folder / sha256, sha256):
        raise WorkFailed(f"{folder / sha256} is missing or has changed", "build again")
    try:
        into.hardlink_to(folder / sha256)
    except OSError:
        shutil.copyfile(folder / sha256, into)


def _get(url: str, part: Path, where: str) -> None:
    """Fetch what `part` has not yet, over several attempts."""
    import tenacity

    deadline = time.monotonic() + DEADLINE
    patient = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(DEADLINE),
        wait=tenacity.wait_exponential(PAUSE, max=15),
        retry=tenacity.retry_if_exception_type(Passing),
        reraise=True,
    )
    try:
        patient(_attempt, url, part, deadline)
    except Passing as cause:
        raise WorkFailed(
            f"{where}: {url} cannot be fetched: {cause}",
            "build again to go on where it stopped; an http_proxy in the environment is used",
        ) from None
    except Refused as cause:
        raise WorkFailed(f"{where}: {url} cannot be fetched: {cause}", "correct the url") from None
    except OSError as cause:
        what = f"{where}: {url} cannot be kept: {cause.strerror}"
        raise WorkFailed(what, "make room, or name another folder with PHX_HOME") from None


class Refused(Exception):
    """What will be the same at the next attempt."""


def _attempt(url: str, part: Path, deadline: float) -> None:
    import http.client

    have = part.stat().st_size if part.exists() else 0
    answer = _open(url, have)
    with contextlib.closing(answer):
        goes_on = getattr(answer, "status", 200) == 206
        length = answer.headers.get("Content-Length", "")
        missing = int(length) if length.isdigit() else 0
        with part.open("ab" if goes_on else "wb") as file:
            while True:
                if time.monotonic() > deadline:
                    raise Refused(f"it did not come within {DEADLINE:.0f} s")
                try:
                    block = answer.read1(BLOCK)
                except (OSError, http.client.HTTPException) as cause:
                    raise Passing(_said(cause)) from None
                if not block:
                    break
                file.write(block)
                missing -= len(block)
    if missing > 0:
        raise Passing(f"it ended {missing} bytes too early")


def _open(url: str, have: int) -> Any:
    """The server's answer, from byte `have` on if it can do that."""
    import http.client
    import urllib.error
    import urllib.request as web

    # No ftp and no data, whatever a server redirects to; a file only when the recipe says so.
    over_http = (
        web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.HTTPRedirectHandler,
        web.HTTPDefaultErrorHandler, web.HTTPErrorProcessor,
    )  # fmt: skip
    is_file = url.startswith("file:")
    opener = web.OpenerDirector()
    for kind in (web.FileHandler,) if is_file else over_http:
        opener.add_handler(kind())
    request = web.Request(url, headers={"User-Agent": "philoxenia"})
    if have and not is_file:
        request.add_header("Range", f"bytes={have}-")
    try:
        return opener.open(request, timeout=SILENCE)
    except urllib.error.HTTPError as cause:
        with cause:
            if cause.code == 416 and have:  # there is no such byte: the file is another by now
                return _open(url, 0)
            passes = cause.code in (408, 429) or cause.code >= 500
            raise (Passing if passes else Refused)(f"{cause.code} {cause.reason}") from None
    except urllib.error.URLError as cause:
        inner = cause.reason if isinstance(cause.reason, OSError) else cause
        raise (Refused if is_file else Passing)(_said(inner)) from None
    except (OSError, http.client.HTTPException) as cause:
        raise Passing(_said(cause)) from None


def _said(cause: Exception) -> str:
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and _digest(path) == sha256


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
