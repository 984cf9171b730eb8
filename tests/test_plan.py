"""Equal input gives equal ids, wherever it is built; a change of input changes the layers at and above it alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError, explain
from builder.language import recipe
from builder.language.accounts import Account
from builder.language.entries import Kernel, Root
from builder.language.flat import Placed, PlacedDirectory
from builder.plan import Facts, Output, plan
from builder.steps import (
    Accounts,
    Bootstrap,
    Install,
    LockedWheel,
    Pip,
    Script,
    Seal,
    Switch,
    Write,
    changed,
    layer_id,
    told,
)
from tests.invented import locked

FACTS = Facts(
    1_750_000_000,
    (
        (locked("systemd-sysv"), locked("openssh-server"), locked("linux-image-cloud-amd64")),
        (locked("nginx"), locked("curl")),
    ),
)

FILES = {
    "base/recipe.yaml": """\
name: base
version: "1"
summary: the root
suite: bookworm
kernel: {package: linux-image-cloud-amd64, modules: [virtio_blk], cmdline: quiet}
size: 1G
parameters:
  port: {type: integer, default: 80}
packages: [systemd-sysv, openssh-server]
files:
  - {path: /etc/port, content: "{{ port }}"}
  - {path: /etc/motd, source: motd, mode: 0600, owner: daemon}
services: {enable: [ssh.service], mask: [getty@tty1.service, apt-daily.timer]}
run:
  - {name: first, script: "true"}
  - {name: second, script: "false || true"}
""",
    "base/motd": "welcome, guest\n",
    "web/recipe.yaml": """\
name: web
version: "2"
summary: a child
from: base
packages: [nginx, curl]
files: [{path: /etc/web, content: web}]
services: {disable: [nginx.service]}
run: [{name: third, script: "echo {{ port }}"}]
""",
}
STEPS = [
    "bootstrap",
    "write",
    "switch",
    "script",
    "script",
    "install",
    "write",
    "switch",
    "script",
    "seal",
]


def drawn(change=None, facts=FACTS, **given_):
    """The plan of the small library, with `change` (file, old, new) applied. Nothing touches the disk."""
    files = dict(FILES)
    if change:
        file, old, new = change
        assert files[file].count(old) == 1, "the case must change one place"
        files[file] = files[file].replace(old, new)

    def load(path):
        try:
            return files[str(path).removeprefix("/nonexistent/")].encode()
        except KeyError:
            raise FileNotFoundError(2, "No such file", str(path)) from None

    flat = recipe.load(Path("/nonexistent/web"), Path("/nonexistent"), given_, load)
    return plan(flat, facts)


def test_golden_ids(golden):
    found = drawn()
    lines = [f"{layer}  {s.kind}" for layer, s in zip(found.layers(), found.steps, strict=True)]
    golden(
        "plan-ids.txt", "\n".join([*lines, f"{found.id}  image"]) + "\n",
        "the identity of every image made so far changed; if that is meant: pytest --update-golden",
    )  # fmt: skip


def test_steps_of_parents_first_sections_in_their_fixed_order():
    found = drawn()
    assert [s.kind for s in found.steps] == STEPS
    assert found.steps[0].packages == ("systemd-sysv", "openssh-server", "linux-image-cloud-amd64")
    assert len(set(found.layers())) == len(STEPS)
    assert (found.name, found.version) == ("web", "2")


def test_the_order_of_sections_in_the_file_does_not_matter():
    text = FILES["web/recipe.yaml"]
    head, packages = text.split("packages: [nginx, curl]\n")
    moved = head + packages + "packages: [nginx, curl]\n"
    assert drawn(("web/recipe.yaml", text, moved)).layers() == drawn().layers()


# (what, file, old, new, index of the first layer that changes)
CHANGES = [
    ("a package of the root", "base/recipe.yaml", "openssh-server", "dropbear", 0),
    ("the kernel package, which the root installs", "base/recipe.yaml", "cloud-amd64", "amd64", 0),
    ("a hypervisor below it", "base/recipe.yaml", "cmdline: quiet", "hypervisor: {package: xen}", 0),
    ("a content", "base/recipe.yaml", '"{{ port }}"', '"port {{ port }}"', 1),
    ("a file of the recipe", "base/motd", "guest", "stranger", 1),
    ("a path", "base/recipe.yaml", "/etc/motd", "/etc/motd.d/guest", 1),
    ("a mode", "base/recipe.yaml", "0600", "0640", 1),
    ("an owner", "base/recipe.yaml", "owner: daemon", "owner: bin", 1),
    ("a parameter's default", "base/recipe.yaml", "default: 80", "default: 81", 1),
    ("a unit to start", "base/recipe.yaml", "enable: [ssh.service]", "enable: [ssh.service, cron.service]", 2),
    ("a masked unit becomes a disabled one", "base/recipe.yaml", "mask: [getty", "disable: [getty", 2),
    ("the first script", "base/recipe.yaml", 'script: "true"', 'script: ":"', 3),
    ("the second script", "base/recipe.yaml", "false || true", "true || false", 4),
    ("a package of the child", "web/recipe.yaml", "curl", "wget", 5),
    ("a version of a package", "web/recipe.yaml", "nginx, ", "nginx=1.22.1-9, ", 5),
    ("a file of the child", "web/recipe.yaml", "content: web", "content: wob", 6),
    ("who runs a script", "web/recipe.yaml", "{{ port }}\"", "{{ port }}\", user: daemon", 8),
    ("which secrets a script reads", "web/recipe.yaml", "{{ port }}\"", "{{ port }}\", secrets: [token]", 8),
    ("a directory", "web/recipe.yaml", "files:", "directories: [{path: /srv}]\nfiles:", 6),
    ("a service of the child", "web/recipe.yaml", "disable: [nginx", "mask: [nginx", 7),
    ("a script of the child", "web/recipe.yaml", "echo {{ port }}", "echo {{ port + 1 }}", 8),
    ("a set of the child reaches its parent's file", "web/recipe.yaml",
     "from: base\n", "from: base\nset: {port: 9}\n", 1),
    ("the image's name alone", "web/recipe.yaml", 'version: "2"', 'version: "3"', 10),
    ("its summary, which its manifest holds", "web/recipe.yaml", "a child", "a better child", 10),
    ("the size", "base/recipe.yaml", "size: 1G", "size: 2G", 10),
    ("a driver", "base/recipe.yaml", "[virtio_blk]", "[virtio_blk, isofs]", 10),
    ("kernel parameters", "base/recipe.yaml", "cmdline: quiet", "cmdline: loud", 10),
    ("the child's own size", "web/recipe.yaml", "from: base\n", "from: base\nsize: 3G\n", 10),
    ("how old it may get", "base/recipe.yaml", "size: 1G", "size: 1G\nmax_age: 30d", 10),
    ("what its host must be", "base/recipe.yaml", "size: 1G", "size: 1G\nrequires: {hypervisor: xen}", 10),
    ("what it can do", "base/recipe.yaml", "size: 1G", "size: 1G\ncapabilities: [web]", 10),
    ("only the words for people: a script's name", "base/recipe.yaml", "name: second", "name: zweiter", 11),
    ("the order of packages", "web/recipe.yaml", "[nginx, curl]", "[curl, nginx]", 11),
    ("the order of units", "base/recipe.yaml", "[getty@tty1.service, apt-daily.timer]",
     "[apt-daily.timer, getty@tty1.service]", 11),
]  # fmt: skip


@pytest.mark.parametrize(
    ("why", "file", "old", "new", "first"), CHANGES, ids=[c[0] for c in CHANGES]
)
def test_a_change_is_seen_at_and_above_its_layer_and_not_below(why, file, old, new, first):
    """Layers are numbered 0 to 9; 10 means the image alone changes, 11 that nothing does."""
    before, after = drawn(), drawn((file, old, new))
    a, b = before.layers(), after.layers()
    assert a[:first] == b[:first], f"{why}: layers below change"
    assert not set(a[first:]) & set(b[first:]), f"{why}: a layer does not change"
    assert (before.id == after.id) == (first > 10), why


SAME = [
    ("a file that is not there by its condition", "files: [{path: /etc/web",
     "files: [{path: /etc/wob, content: web, when: port == 1}, {path: /etc/web"),
    ("a package", "[nginx, curl]", "[nginx, {name: gdb, when: port < 80}, {name: curl, when: port}]"),
    ("a unit", "[nginx.service]", "[{name: cron.service, when: not port}, nginx.service]"),
    ("a script", "run: [", "run: [{name: none, script: 'false', when: port != 80}, "),
    ("a user", "run: [", "users: [{name: app, when: port != 80}]\nrun: ["),
    ("a directory", "run: [", "directories: [{path: /srv, when: port != 80}]\nrun: ["),
    ("a capability", "run: [", "capabilities: [{name: tls, when: port != 80}]\nrun: ["),
    ("a script that says that root runs it", "{{ port }}\"", "{{ port }}\", user: root"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "old", "new"), SAME, ids=[c[0] for c in SAME])
def test_what_is_not_there_by_its_condition_changes_nothing(why, old, new):
    after = drawn(("web/recipe.yaml", old, new))
    assert (after.layers(), after.id) == (drawn().layers(), drawn().id), why


def test_the_url_of_a_file_changes_nothing_and_its_sha256_its_layer():
    entry = "files: [{path: /srv/a, url: 'https://%s.invalid/a', sha256: %s}, "
    one, other_place, other_file = (
        drawn(("web/recipe.yaml", "files: [", entry % (host, digit * 64)))
        for host, digit in (("a", "c"), ("b", "c"), ("a", "d"))
    )
    assert one.id == other_place.id
    assert one.layers()[:6] == other_file.layers()[:6]
    assert one.layers()[6] != other_file.layers()[6] and one.id != other_file.id


def test_users_then_directories_and_files_whatever_the_order_of_the_text():
    more = "run: [{name: r, script: a, user: app}]\ndirectories: [{path: /srv, owner: app}]\nusers: [{name: app}]\n"
    text = FILES["web/recipe.yaml"]
    found = drawn(("web/recipe.yaml", text, text[: text.index("run:")] + more))
    kinds = ["install", "accounts", "write", "switch", "script", "seal"]
    assert [s.kind for s in found.steps[5:]] == kinds
    assert found.steps[8 - 1].directories == (PlacedDirectory("/srv", 0o755, "app"),)
    assert found.steps[9].user == "app"
    alone = drawn(
        ("web/recipe.yaml", text, text[: text.index("files:")] + "directories: [{path: /srv}]\n")
    )
    assert [s.kind for s in alone.steps[5:]] == ["install", "write", "seal"]


def test_python_packages_come_after_packages_and_before_users():
    text = FILES["web/recipe.yaml"]
    more = text + "pip: [tool]\nusers: [{name: app}]\n"
    facts = replace(FACTS, wheels=((), (WHEEL,)), installer=replace(WHEEL, name="pip"))
    found = drawn(("web/recipe.yaml", text, more), facts)
    assert [s.kind for s in found.steps[5:8]] == ["install", "pip", "accounts"]
    assert found.layers()[:6] == drawn().layers()[:6]
    newer = replace(facts, wheels=((), (replace(WHEEL, sha256="cd" * 32),)))
    other = drawn(("web/recipe.yaml", text, more), newer)
    assert other.layers()[:6] == found.layers()[:6] and other.layers()[6] != found.layers()[6]


def relocked(number, packages, epoch=FACTS.epoch):
    """FACTS with other packages for one part."""
    parts = list(FACTS.packages)
    parts[number] = packages
    return Facts(epoch, tuple(parts))


BASE, WEB = FACTS.packages
RELOCKED = [
    ("a newer package of the root", relocked(0, (locked("systemd-sysv", "2"), *BASE[1:])), 0),
    ("one package more below", relocked(0, (*BASE, locked("libc6"))), 0),
    ("a newer package of the child", relocked(1, (WEB[0], locked("curl", "2"))), 5),
    (
        "the same version with other bytes",
        relocked(1, (WEB[0], replace(WEB[1], sha256="0" * 64))),
        5,
    ),
    ("another day", relocked(1, WEB, FACTS.epoch + 1), 0),
    ("the order of the lock", relocked(0, tuple(reversed(BASE))), 11),
]


@pytest.mark.parametrize(("why", "facts", "first"), RELOCKED, ids=[c[0] for c in RELOCKED])
def test_a_change_of_the_lock_is_seen_at_and_above_its_layer(why, facts, first):
    before, after = drawn(), drawn(facts=facts)
    a, b = before.layers(), after.layers()
    assert a[:first] == b[:first] and not set(a[first:]) & set(b[first:]), why
    assert (before.id == after.id) == (first > 10), why


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_lock_of_another_recipe_is_refused(count):
    with pytest.raises(InputError) as caught:
        drawn(facts=Facts(FACTS.epoch, (*FACTS.packages, ())[:count]))
    assert explain(caught.value) == (
        f"error: the lock has {count} parts, the recipe 2\n"
        "  hint: phx lock RECIPE --update renews it"
    )


def test_a_parameter_given_by_hand_is_seen_where_it_is_used():
    a, b = drawn().layers(), drawn(port="8080").layers()
    assert a[0] == b[0] and not set(a[1:]) & set(b[1:])


def test_each_step_is_another_layer_on_another_parent():
    assert layer_id("", Seal()) != layer_id("a", Seal()) != layer_id("", Script("x", ""))


texts = st.text(max_size=20)


@given(texts, texts)
def test_no_text_of_a_step_passes_for_its_parent_or_kind(parent, script):
    """What a flat encoding would allow: a field called parent or kind."""
    step = Script("x", script)
    assert layer_id(parent, step) == layer_id(parent, Script("other name", script))
    spoof = Script("x", f'{script}","kind":"seal","parent":"{parent}')
    assert layer_id(parent, spoof) not in (layer_id(parent, step), layer_id(parent, Seal()))
    assert (layer_id(parent, step) == layer_id(script, Script("x", parent))) == (parent == script)


@given(
    st.lists(st.text("ab", min_size=1), max_size=3), st.lists(st.text("ab", min_size=1), max_size=3)
)
def test_lists_do_not_run_into_each_other(one, other):
    a, b = Switch(tuple(one), tuple(other), ()), Switch((), tuple(one), tuple(other))
    assert (layer_id("", a) == layer_id("", b)) == (one == other == [])


PLACED = Placed("/etc/a", 0o644, "root", b"a")
ACCOUNT = Account("app", 1000, 1000, "app", "/home/app", "/bin/bash", ("adm",), False, "")
WHEEL = LockedWheel("tool", "1.0", "tool-1.0-py3-none-any.whl", "ab" * 32)
STEPS_TOLD = [
    (Bootstrap("bookworm", 7, ("a", "b"), WEB), {"suite", "epoch", "packages", "locked"}),
    (Install(("a",), WEB), {"packages", "locked"}),
    (Pip(("tool",), WHEEL, (WHEEL,)), {"packages", "installer", "locked"}),
    (Accounts((ACCOUNT,)), {"users"}),
    (Write((PLACED,)), {"files", "directories"}),
    (Switch(("a",), ("b",), ("c",)), {"enable", "disable", "mask"}),
    (Script("name", "script"), {"script"}),
    (Script("name", "script", "app"), {"script", "user"}),
    (Script("name", "script", secrets=("token",)), {"script", "secrets"}),
    (Seal(), set()),
]


@pytest.mark.parametrize(("step", "keys"), STEPS_TOLD, ids=lambda x: getattr(x, "kind", ""))
def test_what_a_step_tells_is_json(step, keys):
    assert set(step.told()) == keys and step.title()
    assert json.loads(json.dumps(told(step)))["kind"] == step.kind


def test_output_has_a_revision_of_its_own():
    one = Output(1 << 30, Kernel(package="linux-image-amd64"), 7)
    assert one.told() != replace(one, rev=one.rev + 1).told() != replace(one, epoch=8).told()


@pytest.mark.parametrize(
    ("why", "before", "now", "said"),
    [
        ("nothing was there", None, Seal(), "it is a new step"),
        ("another kind was there", Script("a", "b"), Seal(), "it is a new step"),
        ("the same", Seal(), Seal(), "its layer is gone"),
        (
            "a package",
            Install(("curl",), (locked("curl", "1"),)),
            Install(("curl",), (locked("curl", "2"),)),
            "locked: -curl=1 +curl=2",
        ),
        (
            "packages asked for",
            Install(("curl",), WEB),
            Install(("wget", "curl"), WEB),
            "packages: +wget",
        ),
        (
            "a Python package",
            Pip(("tool",), WHEEL, (WHEEL,)),
            Pip(("tool",), WHEEL, (replace(WHEEL, version="2"),)),
            "locked: -tool=1.0 +tool=2",
        ),
        (
            "a file",
            Write((PLACED,)),
            Write((replace(PLACED, data=b"b"),)),
            f"files: -/etc/a@{PLACED.sha256[:8]} +/etc/a@{replace(PLACED, data=b'b').sha256[:8]}",
        ),
        (
            "a directory",
            Write((), (PlacedDirectory("/srv", 0o755, "root"),)),
            Write((), (PlacedDirectory("/srv", 0o700, "root"),)),
            "directories: -/srv 0755 root +/srv 0700 root",
        ),
        (
            "a user",
            Accounts((ACCOUNT,)),
            Accounts((replace(ACCOUNT, uid=1001, gid=None, group="users"),)),
            "users: -app:1000:1000:/home/app:/bin/bash +app:1001:users:/home/app:/bin/bash",
        ),
        (
            "who runs a script",
            Script("a", "true"),
            Script("a", "true", "app"),
            "user: nothing -> app",
        ),
        ("a short script", Script("a", "true"), Script("b", "false"), "script: true -> false"),
        (
            "two things",
            Switch(("a",), ("b",), ()),
            Switch((), ("a", "b"), ()),
            "disable: +a; enable: -a",
        ),
    ],
)
def test_what_changed_is_told_in_words(why, before, now, said):
    was = None if before is None else json.loads(json.dumps(told(before)))
    assert changed(was, told(now)) == said, why


def test_a_long_text_is_told_by_its_digest():
    said = changed(told(Script("a", "x" * 99)), told(Script("a", "y" * 99)))
    assert "xxx" not in said and len(said) < 60


def test_a_new_revision_is_told():
    before = {**told(Seal()), "rev": Seal.rev - 1}
    assert (
        changed(before, told(Seal()))
        == f"phx makes it in another way (revision {Seal.rev - 1} -> {Seal.rev})"
    )


def test_options_of_the_hypervisor_make_another_image_of_the_same_layers():
    kernel = "cmdline: quiet, hypervisor: {package: xen%s}"
    plain, bound = (
        drawn(("base/recipe.yaml", "cmdline: quiet", kernel % options))
        for options in ("", ", cmdline: dom0_mem=1G")
    )
    assert plain.layers() == bound.layers() and plain.id != bound.id
    bootstrap = plain.steps[0]
    assert isinstance(bootstrap, Bootstrap) and bootstrap.packages[-2:] == (
        "linux-image-cloud-amd64",
        "xen",
    )


def test_a_read_only_root_has_its_drivers_and_parameters():
    plain = drawn()
    assert plain.output.modules == (*plain.output.kernel.modules, "crc32c_generic", "ext4")
    assert plain.cmdline == plain.output.kernel.cmdline
    memory, disk = (
        replace(plain, output=replace(plain.output, root=Root(format="squashfs", changes=to)))
        for to in ("memory", "disk")
    )
    assert memory.output.modules[-2:] == ("squashfs", "overlay")
    assert disk.output.modules[-4:] == ("squashfs", "overlay", "crc32c_generic", "ext4")
    assert memory.cmdline.endswith(" rootfstype=squashfs") and "root=" not in memory.cmdline
    assert disk.cmdline.endswith(
        f" root=PARTLABEL=root-{disk.id[:12]} phx.changes=PARTLABEL=changes-{disk.id[:12]}"
    )
    assert len({plain.id, memory.id, disk.id}) == 3
