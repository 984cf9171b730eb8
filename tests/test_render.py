"""Documents: what a node is told, nothing that it may not know, and the same as long as nothing concerns it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from contextualize import agent, template
from contextualize.context import Context, Member
from contextualize.declared import Declared, File, Provide, Require
from contextualize.exchange import Fact
from contextualize.identity import derive
from contextualize.part import named, text_of, whole
from contextualize.render import Documents
from contextualize.template import TemplateError
from tests.invented import SECRET


def member(node, n):
    return Member(derive(SECRET, "c", node), node.rpartition("-")[0], f"10.7.0.{n}", 24, 2, 512)


def context(workers=2, files=(), sees=None, requires=(), **more):
    members = [member("head-1", 1), *(member(f"worker-{n}", n + 1) for n in range(1, workers + 1))]
    declared = {
        "head": Declared(),
        "worker": Declared(requires=tuple(requires), files=tuple(files), sees=sees),
    }
    return Context(
        "c",
        tuple(members),
        (("head", ("worker",)),),
        ("ssh-ed25519 AAAA op",),
        declared=declared,
        **more,
    )


def rendered(text, facts=None, requires=(), **more):
    documents = Documents(context(files=[File("/f", "0644", text=text)], requires=requires, **more))
    file = documents.document("worker-1", facts or {})["files"][-1]
    assert file["path"] == "/f"
    return file["text"]


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("{{ this.name }} {{ this }} {{ this.short }} {{ this.full }} {{ this.role }} {{ this.address }}",
         "worker-1 worker-1 worker-1 worker-1.c worker 10.7.0.2"),
        ("{{ this.cpus }} {{ this.memory }} {{ cluster }}", "2 512 c"),
        ("{% for w in roles.worker %}{{ w.name }}={{ w.address }} {% endfor %}",
         "worker-1=10.7.0.2 worker-2=10.7.0.3 "),
        ("{{ nodes | map(attribute='name') | join(',') }}", "head-1,worker-1,worker-2"),
        ("{{ data.motd }} {{ parameters.port }}", "hello 80"),
        ("line\n", "line\n"),
    ],
)  # fmt: skip
def test_what_a_template_sees(text, out):
    assert rendered(text, data={"motd": "hello"}, parameters={"worker": {"port": 80}}) == out


def fact(node, value, name="key", secret=False):
    return {node: Fact(node, name, value, secret)}


def test_facts_of_one_and_of_many():
    needs = (Require("key"), Require("id", of="all"))
    facts = {"key": fact("head-1", b"k"), "id": fact("worker-1", b"1") | fact("worker-2", b"2")}
    assert rendered("{{ facts.key }} {{ facts.id['worker-2'] }}", facts, needs) == "k 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nobody }}", "/f: 'nobody' is undefined"),
        ("{{ this.nothing }}", "/f: .*has no attribute 'nothing'"),
        ("{{ facts.other }}", "/f: 'dict object' has no attribute 'other'"),
        ("{{ this.cpus / 0 }}", "/f: cannot be rendered: division by zero"),
        ("{{ this.__class__.__mro__ }}", "/f: .*unsafe"),
        ("{{ ''.__class__ }}", "/f: .*unsafe"),
        ("{{ roles.update(x=1) }}", "/f: .*unsafe"),
    ],
)
def test_what_cannot_be_rendered_says_where(text, message):
    with pytest.raises(TemplateError, match=message):
        rendered(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{% for %}", "line 1: "),
        ("{{ rolse.worker }}", "'rolse' is not known to templates"),
        ("{{ facts.other }}", "the fact other is used and not required"),
        ("{{ facts['other'] }}", "the fact other is used and not required"),
        ("{{ facts.key }} {% for x in range(3) %}{{ x }}{% endfor %}", None),
    ],
)
def test_templates_that_no_cluster_could_render(text, what):
    found = template.flaws(
        Declared(files=(File("/f", "0644", text=text),), requires=(Require("key"),))
    )
    assert [(path, said[: len(what or "")]) for path, said in found] == (
        [("/f", what)] if what else []
    )


def test_a_file_of_a_facts_bytes():
    needs = (Require("key"),)
    documents = Documents(
        context(files=[File("/k", "0400", "munge:munge", fact="key")], requires=needs)
    )
    told = documents.document("worker-1", {"key": fact("head-1", b"\x00\xff", secret=True)})
    assert told["files"][-1] == {
        "path": "/k",
        "mode": "0400",
        "owner": "munge:munge",
        "data": "AP8=",
    }
    assert told["facts"]["key"] == {
        "one": True,
        "secret": True,
        "values": {"head-1": {"data": "AP8="}},
    }
    with pytest.raises(TemplateError, match="/k: the fact key is not there"):
        documents.document("worker-1", {})


def test_until_it_is_complete_it_holds_identity_only():
    documents = Documents(
        context(files=[File("/f", "0644", text="{{ facts.key }}")], requires=(Require("key"),))
    )
    told = documents.document("worker-1", missing=["key"])
    assert not told["complete"] and told["missing"] == ["key"] and told["facts"] == {}
    assert [f["path"] for f in told["files"] if f["path"] == "/f"] == []
    assert "/etc/hosts" in [f["path"] for f in told["files"]]


def test_the_digest_is_of_all_but_the_generation():
    one, two = (Documents(context(generation=g)).document("head-1") for g in (1, 2))
    assert one["digest"] == two["digest"] and (one["generation"], two["generation"]) == (1, 2)


def test_who_sees_only_the_head_is_left_alone_by_other_workers():
    def both(**more):
        two, three = (Documents(context(workers=n, **more)) for n in (2, 3))
        same = two.document("worker-1")["digest"] == three.document("worker-1")["digest"]
        assert same == (two.base("worker-1") == three.base("worker-1"))
        return same

    assert both(sees=("head",)) and not both()
    told = Documents(context(sees=("head",))).document("worker-1")
    assert [p["name"] for p in told["peers"]] == ["worker-1", "head-1"], "and itself"
    hosts = next(f["text"] for f in told["files"] if f["path"] == "/etc/hosts")
    assert "head-1" in hosts and "worker-2" not in hosts


def test_who_enters_it_is_known_though_it_does_not_see_them():
    told = Documents(context(sees=())).document("worker-1")
    keys = next(f["text"] for f in told["files"] if f["path"].endswith("authorized_keys"))
    assert keys.count("\n") == 2 and "root@head-1" in keys


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("data", {"data": {"a": "b"}}),
        ("parameters", {"parameters": {"worker": {"a": 1}}}),
        ("templates", {"files": [File("/f", "0644", text="x")]}),
    ],
)
def test_base_covers_what_documents_are_made_of(why, change):
    assert Documents(context()).base("worker-1") != Documents(context(**change)).base("worker-1"), (
        why
    )


def test_a_seed_holds_no_fact():
    needs = (Require("key"),)
    documents = Documents(context(requires=needs))
    seed = documents.seed("worker-1", documents.document("worker-1", missing=["key"]))
    assert base64.b64encode(b"\x00\xff").decode() not in json.dumps(seed)
    assert seed["context"]["missing"] == ["key"]


def test_provides_and_probes_go_to_the_agent_and_nothing_of_who_may_read():
    declared = Declared(
        provides=(Provide("k", "file", "/k", True, ("head",), True),), probes=(("tcp", "80"),)
    )
    changed = replace(context(), declared={"worker": declared})
    told = Documents(changed).document("worker-1")
    assert told["provides"] == [{"name": "k", "how": "file", "what": "/k", "early": True}]
    assert told["healthy"] == [["tcp", "80"]]


@pytest.mark.parametrize(
    "file",
    [File("/f", "0644", text="{{ facts.key }}"), File("/f", "0644", text="{{ facts['key'] }}"),
     File("/f", "0644", fact="key")],
)  # fmt: skip
def test_a_file_of_a_fact_that_only_health_waits_for_comes_with_it(file):
    late = Documents(context(requires=(Require("key", late=True),), files=(file,)))
    assert "/f" not in {f["path"] for f in late.document("worker-1")["files"]}
    given = {"key": {"head-1": Fact("head-1", "key", b"v")}}
    told = {f["path"]: f for f in late.document("worker-1", given)["files"]}
    assert told["/f"]["text"] == "v"


def test_an_error_of_a_template_holds_no_secret():
    needs = (Require("key"), Require("id"))
    facts = {"key": fact("head-1", b"5ecret\n", secret=True), "id": fact("head-1", b"plain", "id")}
    for text in (
        "{{ facts.key | int('x') + 1 }}{{ facts.key + 1 }}",
        "{{ facts[facts.key] }}",
        "{{ [][facts.key] }}",
    ):
        with pytest.raises(TemplateError) as caught:
            rendered(text, facts, needs)
        assert "5ecret" not in str(caught.value) and caught.value.__cause__ is None
    with pytest.raises(TemplateError, match="has no attribute 'plain'"):
        rendered("{{ facts[facts.id] }}", facts, needs)


def test_what_is_the_same_on_every_node_is_rendered_once(monkeypatch):
    """Of 40 workers: one rendering of what does not look at `this`, and every long text once in memory."""
    files = [File("/shared", "0644", text="{% for n in nodes %}{{ n }} {{ n.address }} {{ n.full }}\n{% endfor %}"),
             File("/own", "0644", text="{{ this }}")]  # fmt: skip
    documents = Documents(context(workers=40, files=files))
    said = []
    real = template.Templates.render
    monkeypatch.setattr(
        template.Templates,
        "render",
        lambda self, path, *a: (said.append(path), real(self, path, *a))[1],
    )
    alike = documents.alike("worker")
    told = [documents.told(f"worker-{n}", alike) for n in range(1, 41)]
    assert said.count("/shared") == 1 and said.count("/own") == 40
    assert (
        len({json.dumps(t["files"][-2]) for t in told}) == 1
        and "part" in told[0]["files"][-2]["text"]
    )
    assert len({t["digest"] for t in told}) == 40
    for t in told:
        assert len(json.dumps(t)) < 6000, "it does not grow with the cluster"
        assert (
            whole(t, alike.parts)["digest"]
            == t["digest"]
            == documents.document(t["files"][0]["text"].strip())["digest"]
        )


def test_the_agent_puts_parts_in_their_places_as_we_do():
    documents = Documents(context(workers=40))
    alike = documents.alike("worker")
    told = documents.told("worker-1", alike)
    texts = {digest: text_of(value) for digest, value in alike.parts.items()}
    assert named(told) == agent.parts_of(told) == {agent.part_of(v) for v in alike.parts.values()}
    assert agent.whole(told, texts) == whole(told, alike.parts) == documents.document("worker-1")


def test_who_sees_others_but_not_its_like_is_told_of_itself_too():
    documents = Documents(context(workers=3, sees=("head",)))
    told = documents.document("worker-2")
    assert [p["name"] for p in told["peers"]] == ["worker-2", "head-1"]
    assert told == documents.told("worker-2", documents.alike("worker")), "nothing is long"
