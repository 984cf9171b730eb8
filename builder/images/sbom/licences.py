"""Debian's words for licences turned into SPDX expressions.

A copyright file names licences in its own short words ("GPL-2+", "Expat or GPL-1+, and BSD-3-clause"). What SPDX knows
becomes its identifier; all else becomes a LicenseRef, which keeps the word and claims nothing.
Source: "Machine-readable debian/copyright file" 1.0, section 7; SPDX 2.3, annex D.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from license_expression import Licensing

_WORDS = {
    "expat": "MIT", "mit/x11": "MIT", "artistic": "Artistic-1.0-Perl", "cc0": "CC0-1.0", "apache-2": "Apache-2.0",
    "bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause", "bsd-4": "BSD-4-Clause", "psf": "PSF-2.0", "psf-2": "PSF-2.0",
    "gfdl-niv-1.2": "GFDL-1.2-no-invariants-only", "gfdl-niv-1.2+": "GFDL-1.2-no-invariants-or-later",
    "gfdl-niv-1.3": "GFDL-1.3-no-invariants-only", "gfdl-niv-1.3+": "GFDL-1.3-no-invariants-or-later",
    "mit license": "MIT", "bsd license": "LicenseRef-BSD", "apache software license": "LicenseRef-Apache",
}  # fmt: skip
"""Debian's short names and Python's classifiers that SPDX spells otherwise."""
_EXCEPTIONS = {
    "autoconf": "Autoconf-exception-3.0", "bison": "Bison-exception-2.2",
    "linux-syscall-note": "Linux-syscall-note", "libtool": "Libtool-exception", "classpath": "Classpath-exception-2.0",
    "gcc": "GCC-exception-3.1", "font": "Font-exception-2.0",
}  # fmt: skip
_FREE = re.compile(r"(?i)^(AGPL|LGPL|GPL|GFDL)-v?(\d+)(?:\.(\d+))?(?:\.0)?(\+|-only|-or-later)?$")


@cache
def licensing() -> Licensing:
    """SPDX's list of licences; reading it takes 30 ms."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def _known(exceptions: bool = False) -> dict[str, str]:
    """SPDX's own identifiers of licences, or of exceptions, by their small letters."""
    return {
        key.lower(): key
        for key, symbol in licensing().known_symbols.items()
        if symbol.is_exception == exceptions and not key.startswith("LicenseRef-")
    }


def expression(words: Iterable[str]) -> str:
    """One SPDX expression that all of them hold for, "" for none. A word may itself hold "and", "or", "with"."""
    parts = sorted({part for word in words for part in _parts(word)})
    if len(parts) == 1:
        return parts[0]
    return " AND ".join(f"({p})" if " OR " in p else p for p in parts)


def _parts(text: str) -> Iterator[str]:
    """What must hold all at once. A comma binds less than "and" and "or" do."""
    for clause in re.split(r",\s*(?:and\s+)?", text):
        term = _joined(clause)
        yield from [term] if " OR " in term else filter(None, term.split(" AND "))


def _joined(text: str) -> str:
    either = []
    for choice in re.split(r"\s+or\s+", text.strip(" ()"), flags=re.I):
        every = [_one(w) for w in re.split(r"\s+and\s+|\s*&\s*", choice, flags=re.I) if w.strip()]
        either.append(" AND ".join(dict.fromkeys(every)))
    return " OR ".join(dict.fromkeys(filter(None, either)))


def _one(text: str) -> str:
    name, _, more = text.strip(" ()").partition(" with ")
    found = _identifier(name.strip())
    if not more:
        return found
    said = more.strip().lower().removesuffix(" exception")
    exception = _EXCEPTIONS.get(said) or _known(exceptions=True).get(said)
    if exception and not found.startswith("LicenseRef-"):
        return f"{found} WITH {exception}"
    return _reference(text)


def _identifier(name: str) -> str:
    free = _FREE.match(name)
    if free:
        family, major, minor, later = free.groups()
        suffix = "only" if later in (None, "-only") else "or-later"
        spelled = f"{family.upper()}-{major}.{minor or 0}-{suffix}"
        if spelled.lower() in _known():
            return spelled
    return _WORDS.get(name.lower()) or _known().get(name.lower()) or _reference(name)


def _reference(text: str) -> str:
    return "LicenseRef-" + (
        re.sub(r"[^A-Za-z0-9.]+", "-", text.replace("+", "-or-later")).strip("-") or "unnamed"
    )


def references(expression_: str) -> list[str]:
    """The LicenseRefs of an expression.

    >>> references("MIT AND LicenseRef-public-domain")
    ['LicenseRef-public-domain']
    """
    return re.findall(r"LicenseRef-[A-Za-z0-9.-]+", expression_)
