"""A document's `context` section made ready for the manifest: conditions decided, files read, nothing rendered.

Templates stay as they are: what they speak of exists only when a cluster is launched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from builder.document import Document, Place
from builder.language.context import ContextFile, Deployment, Provide, Require
from builder.language.kinds import name_of
from builder.language.scope import Scope

Fetch = Callable[[Document, Place, str], bytes]


def told(
    scope: Scope, section: Deployment, fetch: Fetch, at: Place = ("context",)
) -> dict[str, Any]:
    """The section as JSON values; a key that it does not use is absent.

    at  where it stands in the document
    """

    def kept(key: str, items: Iterable[Any]) -> list[tuple[Place, Any]]:
        places = (((*at, key, n), item) for n, item in enumerate(items))
        return [(place, item) for place, item in places if scope.holds(item.when, place)]

    def role(text: str, place: Place) -> str:
        rendered = scope.render(text, place)
        try:
            return name_of(rendered) if rendered else ""
        except ValueError as cause:
            scope.wrong(place, *str(cause).split("; ", 1))
            return ""

    def roles(texts: Iterable[str], place: Place) -> list[str]:
        return [role(text, (*place, n)) for n, text in enumerate(texts)]

    def required(place: Place, r: Require) -> dict[str, Any]:
        whose = role(r.from_, (*place, "from")) if r.from_ else ""
        more = (("fact", r.fact), ("stage", r.stage), ("from", whose))
        return {"before": r.before, "of": r.of} | {k: v for k, v in more if v}

    found: dict[str, Any] = {
        "provides": [
            _provide(p, roles(p.to, (*place, "to")))
            for place, p in kept("provides", section.provides)
        ],
        "requires": [required(place, r) for place, r in kept("requires", section.requires)],
        "files": [
            _file(f, scope.document, place, fetch) for place, f in kept("files", section.files)
        ],
        "healthy": [
            ["tcp", p.tcp] if p.tcp is not None else ["command", p.command]
            for _, p in kept("healthy", section.healthy)
        ],
    }
    if section.sees is not None:
        found["sees"] = roles(section.sees, (*at, "sees"))
    return {key: value for key, value in found.items() if value or key == "sees"}


def _provide(p: Provide, to: list[str]) -> dict[str, Any]:
    ways = (("file", p.file), ("command", p.command), ("tcp", p.tcp), ("probe", p.probe))
    how, what = next((way for way in ways if way[1] is not None), ("hook", ""))
    more = {"secret": p.secret, "early": p.early, "to": to}
    return {"name": p.name, "how": how, "what": what} | {k: v for k, v in more.items() if v}


def _file(file: ContextFile, document: Document, place: Place, fetch: Fetch) -> dict[str, Any]:
    found: dict[str, Any] = {"path": file.path, "mode": f"{file.mode:04o}", "owner": file.owner}
    if file.fact is not None:
        found["fact"] = file.fact
    elif file.template is not None:
        found["text"] = fetch(document, (*place, "template"), file.template).decode(
            errors="replace"
        )
    else:
        found["text"] = file.content
    if file.reload:
        found["reload"] = list(file.reload)
    return found


def merged(sections: Iterable[dict[str, Any]]) -> str:
    """Parents' and fragments' entries first; the last `sees` counts. Canonical JSON, "" when there is nothing."""
    found: dict[str, Any] = {}
    for section in sections:
        for key, value in section.items():
            found[key] = value if key == "sees" else [*found.get(key, []), *value]
    return json.dumps(found, sort_keys=True) if found else ""
