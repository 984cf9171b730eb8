"""A recipe's `context` section as the manifest gets it: conditions decided, roles by parameters, parents first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InputError
from builder.language import recipe

ROOT = """name: {name}
version: "1"
summary: for a test
suite: bookworm
kernel: {{package: linux-image-cloud-amd64}}
size: 1G
"""


def told(folder: Path, text: str, **given: str) -> dict[str, Any]:
    path = folder / "one" / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ROOT.format(name="one") + text)
    context = recipe.load(folder / "one", folder, given).context
    return json.loads(context) if context else {}


ROLES = """parameters:
  workers: {default: worker}
  tls: {type: boolean, default: false}
context:
  provides:
    - {name: key, file: /etc/key, secret: true, to: ["{{ workers }}", head]}
  requires:
    - {stage: healthy, from: "{{ workers }}", of: quorum, before: healthy}
    - {fact: certificate, when: tls}
  sees: ["{{ workers }}"]
"""


def test_roles_may_be_parameters(tmp_path):
    found = told(tmp_path, ROLES, workers="node")
    assert found["provides"][0]["to"] == ["node", "head"]
    assert found["sees"] == ["node"]
    need = {"before": "healthy", "of": "quorum", "stage": "healthy", "from": "node"}
    assert found["requires"] == [need]


def test_a_condition_decides(tmp_path):
    assert len(told(tmp_path, ROLES, tls="true")["requires"]) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": "No Role"}, "recipe.yaml:12: context.provides[0].to[0]: 'No Role'"),
        ({}, "recipe.yaml:12: context.provides[0].to[0]: no parameter 'wrokers'"),
    ],
)
def test_a_role_that_is_none_is_told_with_its_line(tmp_path, given, said):
    text = ROLES if given else ROLES.replace('to: ["{{ workers', 'to: ["{{ wrokers')
    with pytest.raises(InputError) as caught:
        told(tmp_path, text, **given)
    assert said in str(caught.value)


def test_a_section_that_says_nothing_is_nothing(tmp_path):
    assert told(tmp_path, "context: {requires: [{fact: x, when: 'false'}]}\n") == {}
