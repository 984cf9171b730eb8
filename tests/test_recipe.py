"""Recipes are read as written or refused in full: every broken library of tests/cases/recipe gives exactly its text.

A case: `why` it is there, `files` of a library of recipes, the recipe to `build`, parameters to `set` as by --set, and
`error`, what the user reads, with LIB for the library's path.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.choice import Chosen, asked
from builder.document import Document
from builder.errors import InputError, explain
from builder.language import recipe
from builder.language.accounts import Account
from builder.language.flat import Lines, PlacedDirectory, Units
from builder.language.scope import Scope
from tests.test_reference import KEYS

CASES = Path(__file__).parent / "cases" / "recipe"

ROOT = """\
name: base
version: "1"
summary: the root
suite: bookworm
kernel: {package: linux-image-cloud-amd64, modules: [virtio_blk]}
size: 1G
"""


def library(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def load(folder, name, **given):
    return recipe.load(folder / name, folder, given)


@pytest.mark.parametrize("name", sorted(p.stem for p in CASES.glob("*.yaml")))
def test_broken(name, tmp_path):
    case = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    assert set(case) <= {"why", "files", "build", "set", "error"} and case["why"]
    library(tmp_path, case["files"])
    with pytest.raises(InputError) as caught:
        load(tmp_path, case["build"], **case.get("set", {}))
    assert explain(caught.value).replace(str(tmp_path), "LIB") == case["error"].rstrip("\n")


def test_every_key_is_broken_somewhere():
    """Those of `context` in tests/test_context.py."""
    told = "\n".join(yaml.safe_load(p.read_text())["error"] for p in CASES.glob("*.yaml"))
    keys = [path for path in KEYS if not path.startswith("context")]
    assert len(keys) > 60
    for path in keys:
        place = re.escape(path).replace(r"\[\]", r"\[\d+\]").replace("NAME", "[A-Za-z_-]+")
        assert re.search(rf":\d+: {place}\b", told), (
            f"no case of tests/cases/recipe is about {path}"
        )


def test_parents_come_first_and_each_recipe_is_a_part(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT + "packages: [a1]\nrun: [{name: one, script: first}]\n",
        "web/recipe.yaml": 'name: web\nversion: "2"\nsummary: web\nfrom: base\npackages: [b1]\n',
        "shop/recipe.yaml": 'name: shop\nversion: "3"\nsummary: shop\nfrom: web\nsize: 2G\n'
        "files: [{path: /etc/shop, content: x, mode: 0600, owner: 'www-data:adm'}]\n",
    })  # fmt: skip
    flat = load(tmp_path, "shop")
    assert [p.recipe for p in flat.parts] == ["base", "web", "shop"]
    assert (flat.name, flat.version, flat.summary, flat.suite) == ("shop", "3", "shop", "bookworm")
    assert flat.size == 2 << 30, "the child's size replaces its parent's"
    assert flat.kernel.modules == ("virtio_blk",), "a child without a kernel has its parent's"
    assert flat.parts[0].run == (Lines("one", "first"),)
    assert [p for p, _ in flat.parts[1].packages] == ["b1"]
    assert flat.parts[1].packages[0][1] == f"{tmp_path}/web/recipe.yaml:5: packages[0]"
    [file] = flat.parts[2].files
    assert (file.path, file.mode, file.owner, file.data) == (
        "/etc/shop",
        0o600,
        "www-data:adm",
        b"x",
    )


def test_a_childs_kernel_replaces_its_parents_whole(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT,
        "web/recipe.yaml": 'name: web\nversion: "1"\nsummary: s\nfrom: base\nkernel: {package: linux-image-amd64}\n',
    })  # fmt: skip
    kernel = load(tmp_path, "web").kernel
    assert (kernel.package, kernel.modules) == ("linux-image-amd64", ())


WEB = 'name: web\nversion: "1"\nsummary: web\nfrom: base\n'
CHAIN = {
    "base/recipe.yaml": ROOT + "parameters:\n  port: {type: integer, default: 80}\n"
    "  tls: {type: boolean, default: no}\n"
    "files: [{path: /etc/port, content: '{{ port }} {{ tls }} {{ who|default(1) }}'}]\n",
    "web/recipe.yaml": 'name: web\nversion: "1"\nsummary: s\nfrom: base\nset: {port: 8080}\n'
    "parameters:\n  who: {default: web}\n",
    "shop/recipe.yaml": 'name: shop\nversion: "1"\nsummary: s\nfrom: web\nset: {port: 9090, who: shop}\n',
}  # fmt: skip


@pytest.mark.parametrize(
    ("why", "name", "given", "values"),
    [
        ("defaults", "base", {}, {"port": 80, "tls": False}),
        (
            "a child's set is over the default",
            "web",
            {},
            {"port": 8080, "tls": False, "who": "web"},
        ),
        ("the last set of a chain holds", "shop", {}, {"port": 9090, "tls": False, "who": "shop"}),
        (
            "--set is over all",
            "shop",
            {"port": "1", "tls": "true"},
            {"port": 1, "tls": True, "who": "shop"},
        ),
        ("a negative number", "base", {"port": "-1"}, {"port": -1, "tls": False}),
        ("an empty text is a text", "web", {"who": ""}, {"port": 8080, "tls": False, "who": ""}),
    ],
)
def test_values(why, name, given, values, tmp_path):
    flat = load(library(tmp_path, CHAIN), name, **given)
    assert dict(flat.parameters) == values, why


def test_a_set_value_is_rendered_in_the_parents_files(tmp_path):
    library(tmp_path, CHAIN)
    assert load(tmp_path, "base").parts[0].files[0].data == b"80 False 1"
    assert load(tmp_path, "shop", tls="true").parts[0].files[0].data == b"9090 True 1", (
        "a parent does not see what its child declares"
    )


def test_templates_sources_scripts_and_packages_are_rendered_sources_are_not(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT + "parameters: {version: {default: 1.2-3}}\n"
        "packages: ['app={{ version }}']\n"
        "files:\n  - {path: /a, template: templates/a.j2}\n  - {path: /b, source: b}\n"
        "run:\n  - {name: one, script: 'echo {{ version }}'}\n  - {name: two, template: two.j2}\n",
        "base/templates/a.j2": "v {{ version }}\n\n",
        "base/b": "{{ raw }}\n",
        "base/two.j2": "{% for n in [1, 2] %}{{ n }}{% endfor %}",
    })  # fmt: skip
    [part] = load(tmp_path, "base").parts
    assert [p for p, _ in part.packages] == ["app=1.2-3"]
    assert [f.data for f in part.files] == [b"v 1.2-3\n\n", b"{{ raw }}\n"], (
        "ends of files are kept"
    )
    assert part.run == (Lines("one", "echo 1.2-3"), Lines("two", "12"))


def test_a_binary_source_is_copied_as_it_is(tmp_path):
    library(tmp_path, {"base/recipe.yaml": ROOT + "files: [{path: /b, source: b}]\n"})
    (tmp_path / "base/b").write_bytes(bytes(range(256)))
    assert load(tmp_path, "base").parts[0].files[0].data == bytes(range(256))


def test_the_digest_covers_every_byte_that_was_read(tmp_path):
    text = ROOT + "files: [{path: /b, source: b}]\nparameters: {p: {default: a}}\n"
    library(tmp_path, {"base/recipe.yaml": text, "base/b": "one"})
    first = load(tmp_path, "base").digest
    assert load(tmp_path, "base").digest == first
    assert load(tmp_path, "base", p="b").digest != first
    (tmp_path / "base/b").write_text("two")
    assert load(tmp_path, "base").digest != first
    (tmp_path / "base/b").write_text("one")
    (tmp_path / "base/recipe.yaml").write_text(text.replace("the root", "a root"))
    assert load(tmp_path, "base").digest != first


def test_comments_and_layout_do_not_change_the_digest(tmp_path):
    library(tmp_path, {"base/recipe.yaml": ROOT})
    first = load(tmp_path, "base").digest
    library(
        tmp_path,
        {"base/recipe.yaml": "# a comment\n\n" + ROOT.replace("size: 1G", "size:   1024M")},
    )
    assert load(tmp_path, "base").digest == first


WHEN = (
    ROOT
    + """\
parameters:
  debug: {type: boolean, default: no}
  port: {type: integer, default: 0}
  title: {default: ""}
packages: [a1, {name: gdb, when: debug}]
users: [{name: app, when: port}, {name: web}]
directories: [{path: /srv, when: title}]
files:
  - {path: /a, content: plain, when: not debug}
  - {path: /a, content: debug, when: debug}
  - {path: /b, source: not/there, when: port > 1024 and title == 'x'}
  - {path: /c, content: '{{ nothing.at.all }}', when: 'port in [1, 2]'}
services: {enable: [a.service, {name: b.service, when: debug}], mask: [{name: c.service, when: port}]}
run: [{name: one, script: '{{ nothing }}', when: title|length > 3}]
"""
)


def test_an_entry_whose_condition_is_false_is_as_if_not_written(tmp_path):
    [part] = load(library(tmp_path, {"base/recipe.yaml": WHEN}), "base").parts
    assert [p for p, _ in part.packages] == ["a1"]
    assert [(u.name, u.uid) for u in part.users] == [("web", 1000)]
    assert part.directories == () and part.run == ()
    assert [(f.path, f.data) for f in part.files] == [("/a", b"plain")]
    assert part.services == Units(("a.service",), (), ())


def test_an_entry_whose_condition_is_true_is_there(tmp_path):
    library(tmp_path, {"base/recipe.yaml": WHEN})
    [part] = load(tmp_path, "base", debug="true", port="3", title="abc").parts
    assert part.packages[1] == ("gdb", f"{tmp_path}/base/recipe.yaml:11: packages[1].name")
    assert [(u.name, u.uid) for u in part.users] == [("app", 1000), ("web", 1001)]
    assert part.directories == (PlacedDirectory("/srv", 0o755, "root"),)
    assert [(f.path, f.data) for f in part.files] == [("/a", b"debug")]
    assert part.services == Units(("a.service", "b.service"), (), ("c.service",))


def test_conditions_that_hold_bring_their_problems(tmp_path):
    library(tmp_path, {"base/recipe.yaml": WHEN})
    with pytest.raises(InputError) as caught:
        load(tmp_path, "base", port="2000", title="x")
    assert "not/there: there is no such file" in explain(caught.value)


def test_capabilities_add_up_and_the_nearest_age_counts(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT + "max_age: 30d\nparameters: {tls: {type: boolean, default: no}}\n"
        "capabilities: [ssh, {name: tls, when: tls}]\n",
        "web/recipe.yaml": WEB + "include: [a.yaml]\ncapabilities: [http, ssh]\nmax_age: 7d\n",
        "web/a.yaml": "capabilities: [cache]\n",
    })  # fmt: skip
    base, web = load(tmp_path, "base"), load(tmp_path, "web", tls="true")
    assert (base.capabilities, base.max_age) == (("ssh",), 30 * 86400)
    assert (web.capabilities, web.max_age) == (("cache", "http", "ssh", "tls"), 7 * 86400)


def test_a_recipe_has_its_parents_tests_and_a_cluster_of_its_own(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT + "tests: {files: [tests/test_base.py], cluster: c.yaml}\n",
        "base/tests/test_base.py": "one", "base/c.yaml": "", "web/tests/test_web.py": "two",
        "web/recipe.yaml": WEB + "tests: {files: [tests/test_web.py]}\n",
    })  # fmt: skip
    base, web = load(tmp_path, "base"), load(tmp_path, "web")
    assert [(t.recipe, t.name) for t in web.tests] == [
        ("base", "tests/test_base.py"),
        ("web", "tests/test_web.py"),
    ]
    assert (base.test_cluster, web.test_cluster) == (str(tmp_path / "base/c.yaml"), "")
    (tmp_path / "web/tests/test_web.py").write_text("other")
    assert load(tmp_path, "web").tests[1].sha256 != web.tests[1].sha256


def test_directories_are_as_written(tmp_path):
    text = ROOT + "directories: [{path: /srv/a/}, {path: /b, mode: 1777, owner: 'a:b'}]\n"
    text = text.replace("1777", "'1777'")
    [part] = load(library(tmp_path, {"base/recipe.yaml": text}), "base").parts
    assert part.directories == (
        PlacedDirectory("/srv/a", 0o755, "root"),
        PlacedDirectory("/b", 0o1777, "a:b"),
    )


USERS = """\
users:
  - {name: app}
  - {name: db, system: true, home: /srv/db, shell: /usr/sbin/nologin, summary: the database}
  - {name: fixed, uid: 1000, gid: 1002}
  - {name: guest, group: users, groups: [app, db]}
  - {name: more, system: true}
"""


def test_users_get_the_first_free_numbers(tmp_path):
    library(tmp_path, {
        "base/recipe.yaml": ROOT + USERS,
        "web/recipe.yaml": 'name: web\nversion: "1"\nsummary: s\nfrom: base\n'
        "users: [{name: late}, {name: last, gid: 1004}, {name: system, system: true}]\n",
    })  # fmt: skip
    base, web = load(tmp_path, "web").parts
    assert [(u.name, u.uid, u.gid, u.group) for u in base.users] == [
        ("app", 1001, 1001, "app"),  # 1000 is written for another
        ("db", 900, 900, "db"),
        ("fixed", 1000, 1002, "fixed"),
        ("guest", 1002, None, "users"),  # without a group of its own, the group 1002 is no matter
        ("more", 899, 899, "more"),
    ]
    assert [(u.name, u.uid, u.gid) for u in web.users] == [
        ("late", 1003, 1003),
        ("last", 1004, 1004),
        ("system", 898, 898),
    ]
    assert base.users == load(tmp_path, "base").parts[0].users, "a child changes no parent"
    assert base.users[0].home == "/home/app" and base.users[1] == Account(
        "db", 900, 900, "db", "/srv/db", "/usr/sbin/nologin", (), True, "the database"
    )


FRAGMENTS = {
    "base/recipe.yaml": ROOT + "include: [parts/one.yaml, two.yaml]\n"
    "parameters: {own: {default: o}}\nset: {one: set}\n"
    "packages: [a3]\nfiles: [{path: /c, content: '{{ one }}'}]\nusers: [{name: c}]\n"
    "services: {enable: [c.service]}\nrun: [{name: c, script: c}]\ndirectories: [{path: /z}]\n",
    "base/parts/one.yaml": "parameters: {one: {default: '1'}}\npackages: [a1]\n"
    "files: [{path: /a, template: a.j2}]\nusers: [{name: a}]\ndirectories: [{path: /y}]\n"
    "services: {enable: [a.service]}\nrun: [{name: a, script: a, user: a}]\n",
    "base/two.yaml": "packages: [a2]\nrun: [{name: b, script: '{{ own }}'}]\n",
    "base/a.j2": "{{ one }} {{ own }}",
}


def test_the_sections_of_fragments_come_before_the_recipes_own(tmp_path):
    [part] = load(library(tmp_path, FRAGMENTS), "base").parts
    assert [p for p, _ in part.packages] == ["a1", "a2", "a3"]
    assert part.packages[0][1] == f"{tmp_path}/base/parts/one.yaml:2: packages[0]"
    assert [(u.name, u.uid) for u in part.users] == [("a", 1000), ("c", 1001)]
    assert [d.path for d in part.directories] == ["/y", "/z"]
    assert [(f.path, f.data) for f in part.files] == [("/a", b"set o"), ("/c", b"set")]
    assert part.services.enable == ("a.service", "c.service")
    assert part.run == (Lines("a", "a", "a"), Lines("b", "o"), Lines("c", "c"))
    assert (part.recipe, part.where) == ("base", f"{tmp_path}/base/recipe.yaml")


MATRIX = {
    "base/recipe.yaml": ROOT + "parameters: {port: {type: integer, default: 80}}\n",
    "web/recipe.yaml": "name: web\nversion: '1'\nsummary: a child\nfrom: base\nset: {port: 81}\n"
    "parameters: {tls: {type: boolean, default: false}}\n"
    "matrix:\n  plain: {}\n  tls: {tls: true, port: 443}\n"
    "files: [{path: /etc/port, content: '{{ port }}'}, {path: /etc/tls, content: x, when: tls}]\n",
    "leaf/recipe.yaml": "name: leaf\nversion: '1'\nsummary: a child's child\nfrom: web\n",
}


def test_a_variant_is_an_image_of_its_own_name_with_its_values(tmp_path):
    library(tmp_path, MATRIX)

    def found(variant, **given):
        flat = recipe.load(tmp_path / "web", tmp_path, given, variant=variant)
        return flat.name, flat.called, [f.data for f in flat.parts[1].files]

    assert found("plain") == ("web-plain", "web:plain", [b"81"])
    assert found("tls") == ("web-tls", "web:tls", [b"443", b"x"])
    assert found("tls", port="8443") == ("web-tls", "web:tls", [b"8443", b"x"])
    with pytest.raises(InputError, match="no variant 'tsl'"):
        found("tsl")
    leaf = load(tmp_path, "leaf")
    assert (leaf.name, leaf.called, leaf.parts[1].files[0].data) == ("leaf", "leaf", b"81")


def test_a_recipe_with_a_matrix_stands_for_its_variants(tmp_path):
    library(tmp_path, MATRIX)
    web = [Chosen(f"web-{v}", tmp_path / "web", v) for v in ("plain", "tls")]
    base, leaf = (Chosen(n, tmp_path / n) for n in ("base", "leaf"))
    assert asked(["web"], False, tmp_path) == web
    assert asked(["web:tls", "base", "web"], False, tmp_path) == [web[1], base, web[0]]
    assert asked([], True, tmp_path) == [base, leaf, *web]
    assert asked([f"{tmp_path}/web:plain"], False, tmp_path) == web[:1]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("web:tsl", "error: the recipe web has no variant 'tsl'\n  hint: did you mean 'tls'?"),
        (
            "base:tls",
            "error: the recipe base has no variant 'tls'\n  hint: it has no matrix: phx build base",
        ),
        ("wbe:tls", "error: no recipe 'wbe'\n  hint: did you mean 'web'?"),
    ],
)
def test_a_variant_that_is_not_there_is_named(named, said, tmp_path):
    library(tmp_path, MATRIX)
    with pytest.raises(InputError) as caught:
        asked([named], False, tmp_path)
    assert explain(caught.value) == said


def test_an_archive_leaves_nothing_in_the_image_unless_it_is_kept(tmp_path):
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
    files = {
        "base/recipe.yaml": ROOT
        + "parameters: {day: {default: 20250520T000000Z}}\n"
        + "sources:\n  - {name: a, uri: 'https://a.invalid/{{ day }}', suite: stable, key: keys/a.asc, keep: true}\n"
        + f"  - {{name: b, uri: 'file:///b', suite: ./, key_text: {key!r}, snapshot: true}}\n",
        "base/keys/a.asc": key,
    }
    [part] = load(library(tmp_path, files), "base").parts
    a, b = part.archives
    assert (a.uri, a.components, b.components, b.snapshot) == (
        "https://a.invalid/20250520T000000Z", ("main",), (), True,
    )  # fmt: skip
    assert {f.path: f.data.decode() for f in part.files} == {
        "/etc/apt/sources.list.d/a.sources": a.stanza("/etc/apt/keyrings"),
        "/etc/apt/keyrings/a.asc": key,
    }


def test_the_digest_covers_every_byte_of_a_fragment(tmp_path):
    first = load(library(tmp_path, FRAGMENTS), "base").digest
    assert load(tmp_path, "base").digest == first
    (tmp_path / "base/two.yaml").write_text(FRAGMENTS["base/two.yaml"] + "# a comment\n")
    assert load(tmp_path, "base").digest != first


def test_nothing_is_read_but_through_what_is_given():
    """A library that is nowhere on the disk, with a folder reached by another name."""
    files = {"/x/base/recipe.yaml": ROOT, "/y/recipe.yaml": WEB.replace("from: base", "from: bas")}

    def read(path):
        try:
            return files[str(path)].encode()
        except KeyError:
            raise FileNotFoundError(2, "No such file") from None

    with pytest.raises(InputError) as caught:
        recipe.load(
            Path("/y"), Path("/x"), {}, read, lambda library: ["base"], lambda _: Path("/web")
        )
    assert explain(caught.value) == (
        "error: /y/recipe.yaml:4: from: no recipe 'bas'\n  hint: did you mean 'base'?"
    )


def test_the_recipes_we_ship_are_right():
    shipped = Path(__file__).parent.parent / "recipes"
    names = sorted(p.parent.name for p in shipped.glob("*/recipe.yaml"))
    assert {"base", "worker"} <= set(names)
    for name in names:
        assert load(shipped, name).parts[0].recipe == "base"


@given(st.text(alphabet="{}%#!x \n\r"))
def test_a_text_without_marks_is_what_jinja2_makes_of_it(text):
    """Such a text is not given to jinja2, which most builds then never read."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    problems = []
    rendered = Scope(Document("", {}, {}), {}, problems).render(text, ())
    try:
        assert rendered == environment.from_string(text).render()
    except jinja2.TemplateError:
        assert problems


def test_what_a_host_must_be_adds_up_and_a_child_says_it_anew(tmp_path):
    base = 'name: base\nversion: "1"\nsummary: s\nsuite: bookworm\nkernel: {package: linux}\nsize: 1G\n'
    child = 'name: web\nversion: "1"\nsummary: s\nfrom: base\nrequires: {kernel: ">=6.6"}\n'
    files = {"base/recipe.yaml": f"{base}requires: {{hypervisor: xen, kernel: '>=6.1'}}\n"}
    library(tmp_path, files | {"web/recipe.yaml": child})
    assert load(tmp_path, "web").requires == (("hypervisor", "xen"), ("kernel", ">=6.6"))
