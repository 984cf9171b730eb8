"""A long value of a document that many nodes share, and the digest that stands for it on a channel.

Pure. {"part": SHA-256} stands in a document where the value would. The digest is of the text itself, or of the value's
JSON with sorted keys; since the document is signed, what a part says needs no signature of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LEAST = 1024
"""Characters from which on a value goes by its digest."""


def part(value: Any, parts: dict[str, Any]) -> Any:
    """The value, or what stands for it when it is long; then it is in `parts`."""
    text = text_of(value)
    if len(text) < LEAST:
        return value
    digest = hashlib.sha256(text.encode()).hexdigest()
    parts[digest] = value
    return {"part": digest}


def lean(file: Mapping[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The file of a document, its content as a part."""
    return {k: part(v, parts) if k in ("text", "data") else v for k, v in file.items()}


def text_of(value: Any) -> str:
    """What a part's digest is of, and what is sent for it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _stands(value: Any) -> str:
    """The digest of the part that the value stands for; "" when it is the value itself."""
    if isinstance(value, dict) and value.keys() == {"part"} and isinstance(value["part"], str):
        return value["part"]
    return ""


def named(told: Mapping[str, Any]) -> set[str]:
    """Digests of the parts that stand in a document."""
    values = [told["peers"], told["facts"], *(v for file in told["files"] for v in file.values())]
    return {digest for v in values if (digest := _stands(v))}


def whole(told: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every part in its place; KeyError when one is not there. The agent does the same by itself."""

    def full(value: Any) -> Any:
        return parts[digest] if (digest := _stands(value)) else value

    files = [{k: full(v) for k, v in file.items()} for file in told["files"]]
    return {**told, "peers": full(told["peers"]), "facts": full(told["facts"]), "files": files}
