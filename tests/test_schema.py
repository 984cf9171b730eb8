"""The JSON Schemas for editors: every key is described, what we ship is valid, what is wrong is seen where it can be.

A schema sees less than we do: not that a parameter is declared, nor that a guarantee is below its limit.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from builder.document import parse
from builder.language import sections
from cluster import spec
from tests.invented import CLUSTER
from tests.test_recipe import ROOT

TOP = Path(__file__).parent.parent
SCHEMAS = {"recipe": sections.schema(), "cluster": spec.schema()}
SHIPPED = [
    *(("recipe", p) for p in sorted((TOP / "recipes").glob("*/recipe.yaml"))),
    ("cluster", TOP / "cluster/examples/demo.yaml"),
]


def properties(schema):
    """(model, key, its schema) of every key at every level."""
    for name, model in [(schema["title"], schema), *schema["$defs"].items()]:
        for key, value in model.get("properties", {}).items():
            yield name, key, value


def wrong(document, text):
    found = Draft202012Validator(SCHEMAS[document]).iter_errors(parse(text).data)
    return [".".join(map(str, e.absolute_path)) for e in found]


@pytest.mark.parametrize("document", SCHEMAS)
def test_it_is_a_schema_and_every_key_is_described(document):
    Draft202012Validator.check_schema(SCHEMAS[document])
    found = list(properties(SCHEMAS[document]))
    assert len(found) > 15
    assert [(model, key) for model, key, value in found if not value.get("description")] == []


@pytest.mark.parametrize("document", SCHEMAS)
def test_every_model_is_closed_and_described(document):
    for name, model in [("", SCHEMAS[document]), *SCHEMAS[document]["$defs"].items()]:
        assert model["additionalProperties"] is False and model["description"], name


def test_keys_are_as_they_are_written():
    keys = {(model, key) for model, key, _ in properties(SCHEMAS["recipe"])}
    assert ("Recipe", "from") in keys and ("Recipe", "from_") not in keys
    kinds = {(m, k): v for m, k, v in properties(SCHEMAS["recipe"])}
    assert kinds["File", "mode"]["default"] == "0644"
    assert kinds["Recipe", "size"]["anyOf"][0]["type"] == "string"
    kinds = {(m, k): v for m, k, v in properties(SCHEMAS["cluster"])}
    assert kinds["Cpu", "limit"]["type"] == "number"
    disk = kinds["Role", "disk"]
    assert disk["default"] == "4G"
    assert [kind.get("type", kind.get("$ref")) for kind in disk["anyOf"]] == [
        "string",
        "#/$defs/Disk",
    ]
    assert "in" in SCHEMAS["cluster"]["$defs"]["Network"]["properties"]


@pytest.mark.parametrize(("document", "path"), SHIPPED, ids=lambda x: getattr(x, "stem", x))
def test_what_we_ship_is_valid(document, path):
    assert wrong(document, path.read_text()) == []


@pytest.mark.parametrize(
    ("document", "line", "at"),
    [
        ("recipe", "siz: 1G", ""),
        ("recipe", "include: [/etc/a.yaml]", "include.0"),
        ("recipe", "files: [{path: /a, content: a, mode: '9'}]", "files.0.mode"),
        ("recipe", "directories: [{path: a}]", "directories.0.path"),
        ("recipe", f"files: [{{path: /a, url: 'ftp://a/a', sha256: {'ab' * 32}}}]", "files.0.url"),
        ("recipe", "users: [{name: app, uid: 7}]", "users.0.uid"),
        ("recipe", "packages: [{name: strace}]", "packages.0"),
        ("recipe", "run: [{name: x, script: y, user: Root}]", "run.0.user"),
        ("recipe", "parameters: {port: {type: number, default: 1}}", "parameters.port.type"),
        ("cluster", "deadline: 5", "deadline"),
        ("cluster", "host: My Host", "host"),
        ("cluster", "authorized_keys: [x]", "authorized_keys.0"),
    ],
)
def test_what_a_schema_can_see_it_sees(document, line, at):
    text = {"recipe": ROOT, "cluster": CLUSTER}[document]
    assert wrong(document, text) == []
    assert wrong(document, f"{text}\n{line}\n") == [at]


def test_a_schema_is_made_anew_each_time():
    first = sections.schema()
    kept = copy.deepcopy(first)
    first.clear()
    assert sections.schema() == kept


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("packages: [strace, {name: gdb, when: debug}]", "a package with a condition"),
        ("services: {enable: [a.service, {name: b.service, when: tls}]}", "a unit with a condition"),
        ("users: [{name: app, uid: 1500, groups: [adm], system: true, home: /srv/app}]", "a user"),
        ("directories: [{path: /srv/app/, mode: 0750, owner: 'app:app', when: tls}]", "a directory"),
        ("parameters: {port: {type: integer, default: 80}}", "a parameter"),
        ("max_age: 30d", "an age"),
        ("matrix: {small: {port: 1, tls: true}, large: {}}", "variants"),
        ("pip: [requests==2.32.3, {name: gdbgui, when: debug}, {wheel: w/a-1-py3-none-any.whl}]", "Python packages"),
        ("run: [{name: a, script: b, secrets: [token]}]", "a secret"),
        ("capabilities: [ssh, {name: tls, when: tls}]", "a capability with a condition"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_have_a_schema_takes(line, why):
    assert wrong("recipe", f"{ROOT}{line}\n") == [], why
