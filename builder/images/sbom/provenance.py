"""Where an image came from, as an in-toto statement with SLSA's provenance predicate. It is not signed.

Source: in-toto attestation framework v1; SLSA provenance v1 (slsa.dev/spec/v1.0/provenance). Left out are the times of
start and end, which SLSA does not demand: two builds of one plan on one host give the same statement.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from builder import steps
from builder.plan import BuildPlan
from builder.steps import Bootstrap, Install, Pip, Write

FILE = "provenance.json"
BUILD_TYPE = "urn:philoxenia:build:1"
"""Its externalParameters are the recipe's name, version, digest and parameters; the internal ones follow from them."""


def host() -> dict[str, str]:
    """What of this machine could show in an image: the programs that ran, and the kernel below them."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    told = {"philoxenia": version("philoxenia"), "python": platform.python_version()}
    return told | {"system": system, "kernel": platform.release(), "machine": platform.machine()}


def statement(plan: BuildPlan, digests: Mapping[str, str], on: Mapping[str, str]) -> str:
    """As JSON. `digests` are the sha256 of the image's files; `on` is what `host` says."""
    external = {"name": plan.name, "version": plan.version, "digest": {"sha256": plan.recipe_digest},
                "parameters": dict(plan.parameters)}  # fmt: skip
    layers = [
        {"id": layer, "kind": step.kind, "rev": step.rev, "title": step.title(), "input": {"sha256": _digest(step)}}
        for layer, step in zip(plan.layers(), plan.steps, strict=True)
    ]  # fmt: skip
    told = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": n, "digest": {"sha256": d}} for n, d in sorted(digests.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": external},
                "internalParameters": {"plan": plan.id, "epoch": plan.output.epoch, "output": plan.output.told(),
                                       "layers": layers},
                "resolvedDependencies": _dependencies(plan),
            },
            "runDetails": {
                "builder": {"id": "urn:philoxenia:builder", "version": dict(on)},
                "metadata": {"invocationId": plan.id},
            },
        },
    }  # fmt: skip
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def _digest(step: steps.Step) -> str:
    text = json.dumps(steps.told(step), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _dependencies(plan: BuildPlan) -> list[dict[str, Any]]:
    """Every Debian and Python package of the lock and every fetched file, with its sha256."""
    found: dict[str, str] = {}
    for step in plan.steps:
        match step:
            case Bootstrap() | Install():
                for p in step.locked:
                    name = quote(p.name, safe="")
                    text = quote(p.version, safe=":~")
                    found[f"pkg:deb/debian/{name}@{text}?arch={p.architecture}"] = p.sha256
            case Pip():
                for w in (step.installer, *step.locked):
                    name = f"pkg:pypi/{w.name}@{quote(w.version, safe='!')}"
                    found[f"{name}?file_name={quote(w.file)}"] = w.sha256
            case Write():
                found |= {_public(file.url): file.sha256 for file in step.fetched()}
            case _:
                pass
    return [{"uri": uri, "digest": {"sha256": found[uri]}} for uri in sorted(found)]


def _public(url: str) -> str:
    """Without a user's name and password.

    >>> _public("https://me:word@example.org/x?y=1")
    'https://example.org/x?y=1'
    """
    scheme, _, rest = url.partition("://")
    server, slash, path = rest.partition("/")
    return f"{scheme}://{server.rpartition('@')[2]}{slash}{path}"
