"""A node's seed files turned into a small ISO 9660 image with the volume id `cidata`, as NoCloud wants it.

The bytes depend only on the files: the times that the format demands are fixed.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

VOLUME = "cidata"
STAMP = 1_700_000_000.0
"""The time of every record, seconds since 1970."""

_CLOCK = SimpleNamespace(
    time=lambda: STAMP, localtime=time.gmtime, gmtime=time.gmtime, strftime=time.strftime
)
_ONE = threading.Lock()


def agent() -> bytes:
    """The source of our agent, for images that do not have it."""
    return Path(__file__).with_name("agent.py").read_bytes()


def iso(files: Mapping[str, bytes]) -> bytes:
    """The image. Names carry Rock Ridge and Joliet entries, so that every reader sees them as given."""
    import pycdlib

    disc = pycdlib.PyCdlib()
    with _stopped():
        disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
        for number, (name, data) in enumerate(sorted(files.items())):
            disc.add_fp(
                io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}"
            )
        out = io.BytesIO()
        disc.write_fp(out)
    disc.close()
    return out.getvalue()


@contextlib.contextmanager
def _stopped() -> Iterator[None]:
    """pycdlib stamps records with the local time of now: let it see a clock that stands still at UTC, in place of the
    module `time`. Only its own modules are changed, and by one thread at a time: the process keeps its clock.
    """
    from pycdlib import dates, headervd, pycdlib

    with _ONE:
        for module in (dates, headervd, pycdlib):
            vars(module)["time"] = _CLOCK
        try:
            yield
        finally:
            for module in (dates, headervd, pycdlib):
                vars(module)["time"] = time
