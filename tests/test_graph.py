"""The graph of what roles wait for: every stage and fact once, arrows as the exchange waits, and how far nodes are."""

from __future__ import annotations

import re

import pytest

from builder.terminal import Terminal
from cluster import graph
from cluster.ledger import NodeRow
from contextualize.declared import Declared, Provide, Require
from contextualize.requirements import edges

FARM = {
    "head": Declared(
        provides=(Provide("farm_key", "file", "/etc/farm/key", True, ("worker",), early=True),
                  Provide("farm", "tcp", "7000")),
        requires=(Require(stage="booted", role="worker", of="all"),),
    ),
    "gpu-worker": Declared(requires=(Require("farm_key"), Require("farm", role="head"))),
    "worker": Declared(
        requires=(Require("farm_key"), Require("farm", role="head", late=True)),
        provides=(Provide("scratch", "hook"),),
    ),
}  # fmt: skip
COUNTS = {"head": 1, "gpu-worker": 1, "worker": 3}
NODES = [
    NodeRow("farm", "head-1", "head", "10.7.0.1", "contextualized"),
    NodeRow("farm", "gpu-worker-1", "gpu-worker", "10.7.0.9", "failed"),
    *(NodeRow("farm", f"worker-{n}", "worker", f"10.7.0.{n + 1}", stage)
      for n, stage in enumerate(("healthy", "contextualized", "defined"), 1)),
]  # fmt: skip


@pytest.mark.parametrize("language", ["mermaid", "dot"])
@pytest.mark.parametrize("nodes", [None, NODES], ids=["file", "running"])
def test_golden(language, nodes, golden):
    drawn = graph.graph("farm", FARM, COUNTS, nodes)
    kind = "running" if nodes else "file"
    golden(f"graph/{kind}.{language}", getattr(graph, language)(drawn))


def test_arrows_are_what_the_exchange_waits_for():
    drawn = graph.graph("farm", FARM, COUNTS)
    told = {(a.before, a.after) for a in drawn.arrows}
    waits = {(before, after) for after, befores in edges(FARM).items() for before in befores}
    assert told == waits


def test_who_is_missing_is_named():
    events = {e["event"]: e for e in graph.data(graph.graph("farm", FARM, COUNTS, NODES))["events"]}
    assert events["worker healthy"]["missing"] == ["worker-2", "worker-3"]
    assert events["worker healthy"]["state"] == "partly"
    assert events["gpu-worker booted"]["state"] == "missing", "a failed node has reached nothing"
    assert events["head.farm_key"]["state"] == "reached", "early: given before its hooks ran"
    assert events["head.farm"]["missing"] == ["head-1"], "not surely given before it is healthy"
    assert events["worker.scratch"]["missing"] == ["worker-2", "worker-3"]


def test_a_table_says_who_waits_for_whom(golden, capsys):
    Terminal().table(("ROLE", "REACHES", "WAITS FOR", "NODES", "MISSING"),
                     graph.rows(graph.graph("farm", FARM, COUNTS, NODES)))  # fmt: skip
    golden("graph/running.table", capsys.readouterr().out)


def test_of_a_file_nothing_is_said_to_be_reached():
    text = graph.mermaid(graph.graph("farm", FARM, COUNTS))
    assert "classDef" not in text and not re.search(r"\d/\d", text)


def test_no_two_things_have_one_name_in_mermaid():
    """A role `end` does not close its box, and roles whose names differ in a dash stay apart."""
    roles = {"end": Declared(), "a": Declared((Provide("booted", "hook"),)), "a-gives": Declared()}
    text = graph.mermaid(graph.graph("odd", roles, dict.fromkeys(roles, 1)))
    names = re.findall(r"^        (\w+)[({]", text, re.M)
    assert len(names) == len(set(names)) == 10
    assert text.count("    end\n") == 3 and "subgraph of_end[" in text
