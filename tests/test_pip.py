"""What pip says is told in the user's terms; what it is asked is the image's Python, not ours."""

from __future__ import annotations

import pytest

from builder.errors import EnvironmentLacks, WorkFailed, explain
from builder.language import recipe
from builder.packages import pip, renew
from builder.plan import Facts
from builder.run import Done
from builder.steps import LockedWheel
from tests.test_recipe import ROOT, library

SAID = [
    ("no such package", "",
     "ERROR: Could not find a version that satisfies the requirement rqeuests (from versions: none)\n"
     "ERROR: No matching distribution found for rqeuests",
     "error: no wheel of 'rqeuests' for Python 3.11 on amd64 in this machine's pip index\n"
     "  hint: check the name and version; what has no wheel is built once (pip wheel NAME) and named as {wheel: FILE}"),
    ("two that do not go together",
     "INFO: x\nThe conflict is caused by:\n    The user requested lib==1.0\n    tool 1.0 depends on lib<1\nTo fix\n",
     "ERROR: Cannot install lib==1.0 and tool because these package versions have conflicting dependencies.",
     "error: pip finds no way to install these together: The user requested lib==1.0; tool 1.0 depends on lib<1\n"
     "  hint: choose other versions; those of parent recipes are given"),
    ("an index that is away", "",
     "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
     "ERROR: No matching distribution found for lib",
     "error: the index in this machine's pip configuration does not answer\n"
     "  hint: pip config list shows which it is; wheels that are in the cache need none"),
    ("another file", "",
     "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n"
     "    tool==1.0 from file:///index/tool.whl:\n        Expected sha256 00\n             Got        11",
     "error: tool 1.0 came with another sha256 than its lock says"),
    ("a wheel for others", "", "ERROR: a-1-cp27-cp27m-win32.whl is not a supported wheel on this platform.",
     "error: a-1-cp27-cp27m-win32.whl is no wheel for Python 3.11 on amd64\n"
     "  hint: its name says what it is for: pip wheel on Debian's own Python makes a right one"),
    ("a full disk", "", "OSError: [Errno 28] No space left on device",
     "error: the disk is full\n  hint: make room, or name another folder with PHX_HOME"),
    ("anything else", "", "ERROR: something new",
     "error: pip cannot resolve or fetch these packages\n  because: exit 1: pip: ERROR: something new"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "out", "err", "told"), SAID, ids=[s[0] for s in SAID])
def test_what_pip_says_is_told(why, out, err, told):
    error = pip.failure(Done(1, out.encode(), err), "3.11")
    assert isinstance(error, WorkFailed)
    assert explain(error) == told, why


def test_a_python_without_pip_is_lacking():
    error = pip.failure(Done(1, b"", "/x/python: No module named pip"), "3.11")
    assert isinstance(error, EnvironmentLacks) and error.hint.endswith(" -m ensurepip")


def test_packages_for_another_python_are_not_resolved_with_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(pip, "PYTHON", {"bookworm": ((2, 7), 13)})
    with pytest.raises(
        EnvironmentLacks, match=r"of bookworm are for Python 2\.7, and phx runs on 3\."
    ):
        pip.Pip("bookworm", tmp_path, tmp_path / "log").resolve(["tool"], (), (), {})


def test_platforms_are_those_of_the_images_libc_newest_first():
    found = pip.platforms(36)
    assert found[:3] == ["linux_x86_64", "manylinux_2_36_x86_64", "manylinux_2_35_x86_64"]
    assert found[-2:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]
    assert found.index("manylinux2014_x86_64") == found.index("manylinux_2_17_x86_64") + 1


class Index(pip.Pip):
    """pip that knows tool, which needs lib; it remembers what it was asked."""

    def resolve(self, asked, local, below, pins):
        ASKED.append((tuple(asked), [w.file for w in local], [w.file for w in below], dict(pins)))
        names = {"tool": ["lib", "tool"], "venom": ["lib", "venom"]}
        found = [n for name in asked for n in names.get(name, [name])] + [w.file[:3] for w in local]
        return [LockedWheel(n, "1", f"{n}-1-py3-none-any.whl", "0" * 64) for n in sorted(found)]


ASKED = []


def test_a_childs_packages_are_resolved_over_its_parents(tmp_path):
    files = {
        "base/recipe.yaml": ROOT + "pip: [tool, {wheel: own-1-py3-none-any.whl}]\n",
        "base/own-1-py3-none-any.whl": "own",
        "mid/recipe.yaml": "name: mid\nversion: '1'\nsummary: none\nfrom: base\n",
        "web/recipe.yaml": "name: web\nversion: '1'\nsummary: a child\nfrom: mid\npip: [venom]\n",
    }
    flat = recipe.load(library(tmp_path, files) / "web", tmp_path, {})
    ASKED.clear()
    installer, wheels = pip.resolve(flat, Index("bookworm", tmp_path, tmp_path), lambda _: None)
    assert installer.name == "pip"
    assert [[w.name for w in part] for part in wheels] == [["lib", "own", "tool"], [], ["venom"]]
    own = "own-1-py3-none-any.whl"
    pins = {"lib": "1", "own": "1", "tool": "1"}
    first, second, third = ASKED
    assert first == (("pip",), [], [], {})
    assert second == (("tool",), [own], [], {})
    assert third == (("venom",), [], [own], pins)


class Conflicting(pip.Pip):
    """pip that finds newer versions, and a way only without lib's old one."""

    def resolve(self, asked, local, below, pins):
        if pins.get("lib") == "1" and pins.get("tool") == "2":
            raise pip.Conflict(
                ["tool 2 depends on lib>=2", "The user requested (constraint) lib==1"]
            )
        chosen = {"tool": "2", "lib": "2", "other": "2"} | dict(pins)
        return [LockedWheel(n, v, f"{n}-{v}-py3-none-any.whl", "0" * 64) for n, v in chosen.items()]


@pytest.mark.parametrize(
    ("named", "moved"),
    [
        ("tool", {"lib": "2", "other": "1", "tool": "2"}),
        ("other", {"lib": "1", "other": "2", "tool": "1"}),
    ],
)
def test_renewed_in_part_only_what_stands_in_the_way_moves_too(named, moved, tmp_path):
    flat = recipe.load(
        library(tmp_path, {"base/recipe.yaml": ROOT + "pip: [tool]\n"}) / "base", tmp_path, {}
    )
    old = [LockedWheel(n, "1", f"{n}.whl", "0" * 64) for n in ("lib", "other", "tool")]
    asker = Conflicting("bookworm", tmp_path, tmp_path)
    keep = renew._kept(Facts(1, ((),), (tuple(old),), old[0]), {named})
    _, [wheels] = pip.resolve(flat, Installing(asker), lambda _: None, keep)
    assert {w.name: w.version for w in wheels} == moved


class Installing:
    """The first question is for pip itself."""

    def __init__(self, asker):
        self.asker = asker

    def resolve(self, asked, *more):
        found = self.asker.resolve(asked, *more)
        return found[:1] if asked == ["pip"] else found


def test_a_recipe_without_python_packages_asks_nothing(tmp_path):
    flat = recipe.load(library(tmp_path, {"base/recipe.yaml": ROOT}) / "base", tmp_path, {})
    ASKED.clear()
    assert pip.resolve(flat, Index("bookworm", tmp_path, tmp_path), lambda _: None) == (None, ())
    assert ASKED == []
