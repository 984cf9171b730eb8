"""A node's seed files turned into a small ISO 9660 image with the volume id `cidata`, as NoCloud wants it.

The bytes depend only on the files: the times that the format demands are fixed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from unittest import mock

VOLUME = "cidata"


def iso(files: Mapping[str, bytes]) -> bytes:
    """The image. Names carry Rock Ridge and Joliet entries, so that every reader sees them as given."""
    import pycdlib

    disc = pycdlib.PyCdlib()
    # pycdlib stamps records with time.time(); at a fixed time the same files give the same image.
    with mock.patch("pycdlib.dates.time.time", lambda: 1_700_000_000.0):
        disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
        for number, (name, data) in enumerate(sorted(files.items())):
            disc.add_fp(
                io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}"
            )
        out = io.BytesIO()
        disc.write_fp(out)
    disc.close()
    return out.getvalue()
