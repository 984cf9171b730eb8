"""The house's rules, read from the sources: imports go one way, each effect has one door, and what is pure stays so."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("builder", "contextualize", "cluster")
"""Each may import itself and what stands before it."""

SOURCES = sorted(str(p.relative_to(ROOT)) for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))

DOORS = {
    "subprocess": {
        "builder/run.py",
        "contextualize/agent.py",  # runs alone in the guest
        "cluster/hosts/hook.py",  # and this in dom0
    },
    "libvirt": {"cluster/hosts/hypervisor.py"},
    "pyroute2": {"cluster/hosts/shaping.py", "cluster/hosts/netns.py"},
    "sqlalchemy": {
        "cluster/ledger.py",
        "cluster/metering/books.py",
        "cluster/contract/papers.py",
        "cluster/contract/diary.py",
    },
    "guestfs": {"builder/images/inside/guest.py"},
    "fabric": {"cluster/hosts/remote.py"},
    "paramiko": {"cluster/hosts/remote.py"},  # what fabric stands on, and raises
    "pycdlib": {"contextualize/seed.py"},
    "testinfra": {"builder/testing/plugin.py"},
    "pytest": {"builder/testing/plugin.py"},
}
PROGRAMS = {
    "builder/images/mkext4.py",
    "builder/images/sbom/look.py",
    "builder/trees.py",
    "contextualize/agent.py",
    "cluster/hosts/warden.py",
    "cluster/hosts/receive.py",
    "cluster/hosts/hook.py",
    "cluster/demo.py",
    "cluster/figures/__main__.py",
    "cluster/figures/load.py",
}
"""Run by themselves: they speak and end as they like."""
SPEAKERS = {
    "builder/board.py",
    "builder/terminal.py",
    "builder/cli.py",
    "builder/images/cli.py",
    "builder/images/formats/cli.py",
    "builder/images/sbom/cli.py",
    "cluster/cli.py",
    "cluster/hosts/cli.py",
    *PROGRAMS,
}
ALONE = {
    "cluster/figures/load.py",
    "builder/trees.py",
    "contextualize/agent.py",
    "cluster/hosts/warden.py",
    "cluster/hosts/receive.py",
    "cluster/hosts/hook.py",
}
"""The standard library only: they run where nothing else is."""

PURE = {
    *(f"builder/{m}.py" for m in ("errors", "units", "document", "steps", "plan", "eviction")),
    *(f"builder/images/{m}.py" for m in ("manifest", "initrd")),
    *(f"builder/images/sbom/{m}.py" for m in ("inventory", "licences", "purl")),
    *(f"builder/images/ext4/{m}.py" for m in ("geometry", "inode", "groups", "layout", "attributes")),
    *(f"builder/language/{m}.py" for m in ("kinds", "entries", "sections", "context", "chain", "scope", "accounts")),
    *(f"builder/language/{m}.py" for m in ("deployment", "flat", "part", "recipe")),
    *(f"contextualize/{m}.py" for m in ("identity", "context", "message", "exchange", "render")),
    *(f"contextualize/{m}.py" for m in ("declared", "requirements", "part", "template")),
    *(f"contextualize/{m}.py" for m in ("coordinator", "cloudinit", "certificate")),
    *(f"cluster/contract/{m}.py" for m in ("asked", "terms", "scheduled", "negotiable")),
    *(f"cluster/{m}.py" for m in ("definition", "spec", "place", "guarantee", "network", "domain", "plan")),
    *(f"cluster/metering/{m}.py" for m in ("usage", "account", "metrics", "show")),
    *(f"cluster/figures/{m}.py" for m in ("series", "recording", "claims")),
}  # fmt: skip
EFFECTS = {
    "time",
    "random",
    "secrets",
    "subprocess",
    "socket",
    "uuid",
    "tempfile",
    "shutil",
    "select",
    "threading",
}


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@cache
def nodes(path: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


@cache
def imports(path: str) -> frozenset[str]:
    """Dotted names of all modules that a source imports, wherever in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(
            node.func, "attr", getattr(node.func, "id", "")
        ) in ("import_module", "__import__"):
            raise AssertionError(
                f"{path}:{node.lineno}: an import that cannot be read from the source"
            )
    return frozenset(found)


def tops(path: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@cache
def calls(path: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything called, and of every attribute of a module that is read."""
    found = []
    for node in nodes(path):
        at = node.func if isinstance(node, ast.Call) else node
        if isinstance(at, ast.Attribute | ast.Name) and (
            isinstance(node, ast.Call | ast.Attribute)
        ):
            found.append((at.lineno, ast.unparse(at)))
    return found


def test_there_are_sources():
    assert len(SOURCES) > 30 and set(SOURCES) >= PURE and set(SOURCES) >= ALONE


@pytest.mark.parametrize("path", SOURCES)
def test_imports_go_down_the_floors(path):
    floor = FLOORS.index(path.partition("/")[0])
    above = set(FLOORS[floor + 1 :]) | {"tests"}
    assert not tops(path) & above


@pytest.mark.parametrize("module", sorted(DOORS))
def test_one_door_for(module):
    users = {path for path in SOURCES if module in tops(path)}
    assert users <= DOORS[module]


@pytest.mark.parametrize("path", SOURCES)
def test_processes_start_at_their_door(path):
    if path in DOORS["subprocess"] | {"cluster/hosts/warden.py"}:
        return
    starts = (
        "os.system",
        "os.popen",
        "os.spawn",
        "os.posix_spawn",
        "os.fork",
        "os.exec",
        "pty.spawn",
    )
    found = [(line, name) for line, name in calls(path) if name.startswith(starts)]
    assert not found


@pytest.mark.parametrize("path", sorted(set(SOURCES) - SPEAKERS))
def test_only_the_command_line_speaks_and_ends(path):
    spoken = {
        "print",
        "sys.exit",
        "exit",
        "quit",
        "os._exit",
        "input",
        "sys.stdout.write",
        "sys.stderr.write",
    }
    assert not [(line, name) for line, name in calls(path) if name in spoken]


@pytest.mark.parametrize("path", sorted(ALONE))
def test_what_runs_alone_needs_the_standard_library_only(path):
    assert tops(path) <= sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(PURE))
def test_what_is_pure_has_no_clock_chance_environment_or_disk(path):
    assert not tops(path) & EFFECTS
    told = {
        "open",
        "os.environ",
        "os.environ.get",
        "os.getenv",
        "io.open",
        "datetime.now",
        "datetime.datetime.now",
    }
    methods = (
        ".read_text",
        ".read_bytes",
        ".write_text",
        ".write_bytes",
        ".mkdir",
        ".unlink",
        ".exists",
        ".stat",
    )
    for line, name in calls(path):
        # The default of a `load` argument is a name that the caller may replace, not a reading.
        assert name not in told and (not name.endswith(methods) or name == "Path.read_bytes"), (
            f"{path}:{line}: {name}"
        )


@pytest.mark.parametrize("path", SOURCES)
def test_every_module_says_what_it_is(path):
    if (ROOT / path).read_text().strip():
        assert ast.get_docstring(tree(path)), f"{path} has no docstring"


def test_vendor_modules_are_imported_when_needed():
    """`phx --help` answers before libvirt, netlink or ISO code is read."""
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert (name or "").partition(".")[0] not in (
                    "libvirt",
                    "guestfs",
                    "fabric",
                    "pyroute2",
                    "pycdlib",
                ), path
