"""What each kind of step asks of its chamber, remembered per revision: a change of acts under the same rev is caught.

A layer's id does not cover the program's text (style.md, section 2): whoever changes what a step does must raise its
`rev`, or layers made by the old acts would be taken for made by the new ones. Here that is remembered for him.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from builder import acts, assemble, placing
from builder.errors import CommandFailed, TimedOut, WorkFailed
from builder.language.accounts import Account
from builder.language.flat import Fetched, LocalWheel, Placed, PlacedDirectory
from builder.packages.archive import file_name
from builder.provisions import Caches
from builder.run import Done
from builder.secrets import Secret
from builder.steps import (
    Accounts,
    Bootstrap,
    Install,
    LockedWheel,
    Pip,
    Script,
    Seal,
    Step,
    Switch,
    Write,
)
from tests.conftest import GOLDEN
from tests.invented import deb, locked

BYTES = b"what a URL gives\n"
FETCHED = hashlib.sha256(BYTES).hexdigest()

FETCHED_WHEEL = LockedWheel("pip", "23.0.1", "pip-23.0.1-py3-none-any.whl", FETCHED)
LIB = replace(FETCHED_WHEEL, name="lib", version="1", file="lib-1-py3-none-any.whl")
OWN = LockedWheel("own", "3", "own-3-py3-none-any.whl", hashlib.sha256(b"own").hexdigest())

SAMPLES = {
    "bootstrap": Bootstrap("bookworm", 1_750_000_000, ("dash", "kmod"), (locked("dash", "1:2.0"), locked("kmod"))),
    "install": Install(("nginx", "curl=7.88.1-10"), (locked("curl", "7.88.1-10"), locked("nginx"))),
    "pip": Pip(("tool==1.0", "Lib"), FETCHED_WHEEL, (OWN, LIB),
               (LocalWheel("own-3-py3-none-any.whl", b"own", "recipe.yaml:8"),)),
    "accounts": Accounts((
        Account("app", 1000, 1000, "app", "/home/app", "/bin/bash", ("web", "adm"), False, "the application's"),
        Account("web", 900, 900, "web", "/srv/web", "/usr/sbin/nologin", (), True, ""),
        Account("guest", 1001, None, "users", "/home/guest", "/bin/bash", (), False, "a guest; $(reboot)"),
    )),
    "write": Write((
        Placed("/usr/bin/b", 0o755, "root", b"#!/bin/sh\n"), Placed("/etc/a", 0o640, "www-data:adm", b"a\n"),
        Placed("/etc/c", 0o644, "daemon", bytes(range(256))),
    ), (
        PlacedDirectory("/srv/web", 0o2750, "web:adm"), PlacedDirectory("/srv", 0o755, "root"),
    )),
    "write.fetched": Write((
        Placed("/etc/a", 0o644, "root", b"a\n"),
        Fetched("/srv/b c", 0o4750, "web:adm", FETCHED, "https://host.invalid/b", "recipe.yaml:7"),
        Fetched("/opt/b", 0o644, "daemon", FETCHED, "file:///b", "recipe.yaml:9"),
    )),
    "switch": Switch(("ssh.service", "cron.service"), ("nginx.service",), ("apt-daily.timer",)),
    "script": Script("make it so", "set -x\necho 'so' > /etc/so\n"),
    "script.secrets": Script("log in", "cat /run/secrets/*", secrets=("token", "key")),
    "seal": Seal(),
}  # fmt: skip
SECRETS = {
    "token": Secret(b"invented, twice\n"),
    "key": Secret(b"invented"),
    "other": Secret(b"unasked"),
}


class Recorder:
    """Stands for a Chamber, and remembers what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.tree = self.work / "tree"
        self.tree.mkdir(parents=True)
        self.asked: list[dict[str, object]] = []
        self.stdin: list[bytes] = []

    def _keep(
        self,
        where,
        script,
        stdin=b"",
        binds=(),
        log=None,
        on_line=None,
        timeout=0.0,
        mask=(),
        silence=None,
        **more,
    ):
        assert timeout > 0, "every step has a deadline"
        self.stdin.append(stdin)
        self.masked = [secret.reveal() for secret in mask]
        told = hashlib.sha256(stdin).hexdigest() if stdin else ""
        lines = (
            script.replace(str(self.root), "ROOT").replace(sys.executable, "PYTHON").splitlines()
        )
        inner = [
            f"{str(outer).replace(str(self.root), 'ROOT')} at {inner}" for outer, inner in binds
        ]
        self.asked.append({"where": where, **more, "binds": inner, "stdin": told, "script": lines})
        return Done(0, b"")

    def inside(self, script, **more):
        return self._keep("inside", script, **more)

    def outside(self, script, **more):
        return self._keep("outside", script, **more)

    def files(self) -> dict[str, list[str]]:
        """What the step put beside the tree for its programs: lines of texts, digests of packages."""
        found = {}
        for path in sorted(p for p in self.work.rglob("*") if p.is_file()):
            data = path.read_bytes()
            lines = (
                [hashlib.sha256(data).hexdigest()]
                if path.suffix in (".deb", ".whl")
                else data.decode().splitlines()
            )
            found[str(path.relative_to(self.root))] = lines
        return found


EPOCH = 1_750_000_000


def act(step: Step, folder: Path) -> Recorder:
    chamber = Recorder(folder)
    caches = Caches(folder / "packages", folder / "apt", folder / "logs", folder / "files")
    caches.make()
    (caches.files / FETCHED).write_bytes(BYTES)
    for package in getattr(step, "locked", ()) if not isinstance(step, Pip) else ():
        (caches.packages / file_name(package)).write_bytes(deb(package.name, package.version))
    acts.execute(step, chamber, caches, folder / "log", EPOCH, secrets=SECRETS)
    return chamber


def test_every_kind_of_step_has_a_sample():
    """`kind`, or `kind.case` for more than one."""
    assert {name.partition(".")[0] for name in SAMPLES} == {kind.kind for kind in get_args(Step)}


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_acts_are_those_of_its_revision(kind, tmp_path, golden):
    step = SAMPLES[kind]
    done = act(step, tmp_path)
    text = json.dumps({"asked": done.asked, "files": done.files()}, indent=1) + "\n"
    assert str(tmp_path) not in text, "what is remembered must not depend on this run's folder"
    golden(
        f"steps/{kind}-{step.rev}.json",
        text,
        f"raise rev of {kind} (builder/steps.py) or, when no bytes change, pytest --update-golden",
    )


def test_only_the_acts_of_the_revisions_that_there_are_are_remembered():
    names = {f"{kind}-{step.rev}.json" for kind, step in SAMPLES.items()}
    assert {p.name for p in (GOLDEN / "steps").glob("*")} == names, (
        "remove those of older revisions"
    )


def test_a_wheel_that_is_not_what_its_lock_says_is_not_installed(tmp_path):
    step = SAMPLES["pip"]
    lost = replace(step, installer=replace(step.installer, sha256="0" * 64))
    with pytest.raises(WorkFailed, match="is missing or has changed"):
        act(lost, tmp_path)


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_no_step_has_a_network(kind, tmp_path):
    assert not any(asked.get("network") for asked in act(SAMPLES[kind], tmp_path).asked)


def test_a_package_that_is_not_what_its_lock_says_is_not_installed(tmp_path):
    step = SAMPLES["install"]
    wrong = Install(step.packages, (step.locked[0], replace(step.locked[1], sha256="0" * 64)))
    chamber = Recorder(tmp_path)
    caches = Caches(tmp_path / "packages", tmp_path / "apt", tmp_path / "logs", tmp_path / "files")
    caches.make()
    for package in step.locked:
        (caches.packages / file_name(package)).write_bytes(deb(package.name, package.version))
    with pytest.raises(
        WorkFailed, match=r"nginx_1\.0_all\.deb is missing from the cache or is not what"
    ):
        acts.execute(wrong, chamber, caches, tmp_path / "log", EPOCH)
    assert chamber.asked == []


def test_the_tar_holds_what_the_recipe_said(tmp_path):
    [data] = act(SAMPLES["write"], tmp_path).stdin
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = [
            (m.name, m.mode, m.uname, m.gname, m.mtime, m.isdir() or tar.extractfile(m).read())
            for m in tar
        ]
    assert found == [
        ("srv", 0o755, "root", "root", EPOCH, True),
        ("srv/web", 0o2750, "web", "adm", EPOCH, True),
        ("etc/a", 0o640, "www-data", "adm", EPOCH, b"a\n"),
        ("etc/c", 0o644, "daemon", "daemon", EPOCH, bytes(range(256))),
        ("usr/bin/b", 0o755, "root", "root", EPOCH, b"#!/bin/sh\n"),
    ]


def test_the_order_of_files_and_directories_gives_the_same_tar():
    files, directories = SAMPLES["write"].files, SAMPLES["write"].directories
    assert placing.tar_of(files, 7, directories) == placing.tar_of(files, 7, directories[::-1])
    assert placing.tar_of(files, 7) == placing.tar_of(tuple(reversed(files)), 7)
    assert placing.tar_of(files, 7) != placing.tar_of(files, 8)


def test_the_order_of_users_gives_the_same_acts(tmp_path):
    turned = Accounts(tuple(reversed(SAMPLES["accounts"].users)))
    assert turned.told() == SAMPLES["accounts"].told()
    assert act(turned, tmp_path / "a").asked == act(SAMPLES["accounts"], tmp_path / "b").asked


def test_a_script_of_another_user_is_run_with_its_rights_and_home(tmp_path):
    [asked] = act(Script("x", "echo 'a'\nid", "app"), tmp_path).asked
    assert asked["script"] == [
        "export PATH=/usr/local/sbin:/usr/local/bin:$PATH; "
        'id -u app >/dev/null 2>&1 || { echo "no user app in the image" >&2; exit 1; }',
        'export HOME="$(getent passwd app | cut -d: -f6)" USER=app LOGNAME=app',
        "exec setpriv --reuid=app --regid=\"$(id -g app)\" --init-groups sh -euc 'echo '\"'\"'a'\"'\"'",
        "id'",
    ]


@pytest.mark.parametrize(("user", "owner"), [("root", "root"), ("app", "app")])
def test_secrets_reach_a_script_as_files_of_its_user_and_nothing_else_of_it(user, owner, tmp_path):
    done = act(replace(SAMPLES["script.secrets"], user=user), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(done.stdin[0])) as tar:
        found = [(m.name, m.mode, m.uname, tar.extractfile(m).read()) for m in tar]
    assert found == [
        ("run/secrets/key", 0o400, owner, b"invented"),
        ("run/secrets/token", 0o400, owner, b"invented, twice\n"),
    ]
    assert done.masked == [b"invented, twice\n", b"invented"]
    assert "invented" not in json.dumps([done.asked, done.files()])


# What a failed step tells its user.


@pytest.mark.parametrize(
    ("why", "cause", "hint"),
    [
        (
            "a script of the user's",
            CommandFailed(["sh"], 127, "sh: 3: nginx: not found"),
            "everything it said is in LOG; finished layers are kept; "
            "the same command with --shell opens a shell where it failed",
        ),
        (
            "it took too long",
            TimedOut("sh did not end in time"),
            "everything it said is in LOG; finished layers are kept; "
            "the same command with --shell opens a shell where it failed",
        ),
        (
            "a full disk",
            CommandFailed(["sh"], 100, "tar: write error\nNo space left on device"),
            "the disk is full; make room, or name another folder with PHX_HOME",
        ),
    ],
)
def test_a_failure_is_told_in_the_users_terms(why, cause, hint):
    error = assemble._failed("step 1/9 failed", cause, Path("LOG"))
    assert (error.what, error.hint) == ("step 1/9 failed", hint), why
