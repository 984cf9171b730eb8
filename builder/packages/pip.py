"""Python packages: pip's resolver asked once for what the image's Python takes, wheels fetched once by their sha256.

Both go through the pip configuration of this machine (its index, its proxies), and only wheels are taken: what has to
be compiled would bring a compiler, and other bytes each time. The step itself gets a folder of exactly the locked
wheels, with the pip that is locked beside them, and no index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from builder.errors import CommandFailed, EnvironmentLacks, Problem, WorkFailed
from builder.language.flat import Flat, LocalWheel
from builder.plan import Report
from builder.run import Done, run
from builder.steps import LockedWheel

PIP_TIMEOUT = 900.0

PYTHON = {"bookworm": ((3, 11), 36)}
"""Of each suite, the version of its Python and of its glibc (2.N)."""


STALE = "phx lock RECIPE --update (or phx build RECIPE --refresh) asks for what there is now"


class AbsentWheel(WorkFailed):
    """The index, as this machine sees it, has no wheel of this package for the image's Python."""

    def __init__(self, requirement: str, python: str) -> None:
        super().__init__(
            f"no wheel of '{requirement}' for Python {python} on amd64 in this machine's pip index",
            "check the name and version; what has no wheel is built once (pip wheel NAME) "
            "and named as {wheel: FILE}",
        )
        self.package = normalized(re.split(r"[\[=<>!~;@ ]", requirement)[0])


class Conflict(WorkFailed):
    """Wishes that nothing fulfils together. `kept` are the packages among them that a constraint keeps."""

    def __init__(self, wishes: Sequence[str]) -> None:
        super().__init__(
            f"pip finds no way to install these together: {'; '.join(wishes)}",
            "choose other versions; those of parent recipes are given",
        )
        found = (re.fullmatch(r"The user requested \(constraint\) (\S+?)==.*", w) for w in wishes)
        self.kept = {normalized(match[1]) for match in found if match}


@dataclass(frozen=True, slots=True)
class Pip:
    """pip for the Python of `suite`.

    files  the cache of fetched files, by their sha256
    """

    suite: str
    files: Path
    log: Path

    def resolve(
        self,
        asked: Sequence[str],
        local: Sequence[LocalWheel],
        below: Sequence[LocalWheel],
        pins: Mapping[str, str],
    ) -> list[LockedWheel]:
        """What pip would install, by name; nothing that is in `pins` and of no other name asked for.

        local  wheels that are asked for
        below  wheels of the recipes below, which others may need
        pins   versions that are given already, by normalized name
        Raises WorkFailed in the user's terms.
        """
        with tempfile.TemporaryDirectory(prefix="phx-pip-") as at:
            folder = Path(at)
            for wheel in (*below, *local):
                (folder / wheel.file).write_bytes(wheel.data)
            (folder / "pins").write_text("".join(f"{n}=={v}\n" for n, v in sorted(pins.items())))
            words = [*asked, *(str(folder / wheel.file) for wheel in local)]
            # PEP 668's mark, a user's own site and what is installed here do not matter: nothing is installed.
            self._run(
                "install", "--dry-run", "--ignore-installed", "--report", str(folder / "report"),
                "--target", str(folder / "none"), "--find-links", at,
                "--constraint", str(folder / "pins"), *words,
            )  # fmt: skip
            report = json.loads((folder / "report").read_text())
            found = [self._locked(item) for item in report["install"]]
        return sorted(found, key=lambda wheel: wheel.name)

    def _locked(self, item: dict[str, Any]) -> LockedWheel:
        """One package of pip's report, with its sha256 (not every index tells it)."""
        about, origin = item["metadata"], item["download_info"]
        where = urlsplit(origin["url"])
        file = unquote(where.path.rpartition("/")[2])
        sha256 = origin["archive_info"].get("hashes", {}).get("sha256")
        if sha256 is None and where.scheme == "file":
            sha256 = hashlib.sha256(Path(unquote(where.path)).read_bytes()).hexdigest()
        if sha256 is None:
            with self._folder() as folder:
                exact = f"{about['name']}=={about['version']}"
                self._run("download", "--no-deps", "--dest", str(folder), exact)
                sha256 = self._keep(folder / file)
        return LockedWheel(normalized(about["name"]), about["version"], file, sha256)

    def fetch(self, wheels: Iterable[LockedWheel], report: Report) -> None:
        """Have every wheel in the cache. WorkFailed naming one that the index no longer gives, or gives otherwise."""
        missing = [wheel for wheel in wheels if not (self.files / wheel.sha256).is_file()]
        if not missing:
            return
        report(f"fetching {len(missing)} wheels")
        with self._folder() as folder:
            (folder / "wanted").write_text(requirements(missing))
            words = ("--no-deps", "--require-hashes", "--dest", str(folder), "--requirement")
            try:
                self._run("download", *words, str(folder / "wanted"))
            except AbsentWheel as cause:
                cause.hint = STALE
                raise
            for wheel in missing:
                if not (folder / wheel.file).is_file():
                    raise WorkFailed(f"the index gives no {wheel.file} any more", STALE)
                self._keep(folder / wheel.file)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """To fetch into, on the filesystem of the cache."""
        self.files.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="wheels-", dir=self.files) as at:
            yield Path(at)

    def _keep(self, path: Path) -> str:
        """Put a fetched file into the cache; its sha256."""
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        path.chmod(0o644)
        path.replace(self.files / sha256)
        return sha256

    def _run(self, verb: str, *words: str) -> None:
        version, libc = PYTHON[self.suite]
        # pip reads the conditions of packages (PEP 508) with the Python that it runs on.
        if sys.version_info[:2] != version:
            ours, theirs = (".".join(map(str, v)) for v in (sys.version_info[:2], version))
            raise EnvironmentLacks(
                f"Python packages of {self.suite} are for Python {theirs}, and phx runs on {ours}",
                f"make phx's virtual environment with python{theirs}",
            )
        argv = [
            sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir",
            verb, "--only-binary", ":all:", "--implementation", "cp",
            "--python-version", ".".join(map(str, version)),
            *(word for abi in (f"cp{version[0]}{version[1]}", "abi3", "none") for word in ("--abi", abi)),
            *(word for name in platforms(libc) for word in ("--platform", name)), *words,
        ]  # fmt: skip
        done = run(argv, timeout=PIP_TIMEOUT, env=os.environ, log=self.log, check=False)
        if done.status != 0:
            told = failure(done, ".".join(map(str, version)))
            raise told from told.__cause__


def failure(done: Done, python: str) -> WorkFailed | EnvironmentLacks:
    """What pip's failure means to the user; pip's own words are the cause of what is not known."""
    said = f"{done.text}\n{done.tail}"
    if "No module named pip" in said:
        return EnvironmentLacks("the Python of phx has no pip", f"{sys.executable} -m ensurepip")
    if "No space left on device" in said:
        return WorkFailed("the disk is full", "make room, or name another folder with PHX_HOME")
    if found := re.search(r"^\s+(\S+)==(\S+) from .*\n\s+Expected sha256", said, re.M):
        return WorkFailed(f"{found[1]} {found[2]} came with another sha256 than its lock says")
    if re.search(r"Retrying \(|Connection|ProxyError|Max retries|SSLError", said):
        return WorkFailed(
            "the index in this machine's pip configuration does not answer",
            "pip config list shows which it is; wheels that are in the cache need none",
        )
    if found := re.search(r"No matching distribution found for (\S+)", said):
        return AbsentWheel(found[1], python)
    if found := re.search(r"ERROR: (\S+\.whl) is not a (supported|valid) wheel", said):
        return WorkFailed(
            f"{found[1]} is no wheel for Python {python} on amd64",
            "its name says what it is for: pip wheel on Debian's own Python makes a right one",
        )
    if found := re.search(r"^The conflict is caused by:\n((?: {4}.+\n?)+)", said, re.M):
        wishes = [line.strip() for line in found[1].splitlines()]
        return Conflict(wishes)
    failed = WorkFailed("pip cannot resolve or fetch these packages")
    failed.__cause__ = CommandFailed(["pip"], done.status, done.tail)
    return failed


def resolve(
    recipe: Flat,
    pip: Pip,
    report: Report,
    keep: Callable[[Mapping[str, str]], dict[str, str]] | None = None,
) -> tuple[LockedWheel | None, tuple[tuple[LockedWheel, ...], ...]]:
    """The pip that installs, and the exact Python packages of every part; none when the recipe has none.

    Each part is resolved on top of what its parents install.

    keep  from the versions that pip chooses now, those that it is to choose as long as no other needs another
    Raises WorkFailed naming the recipe's line.
    """
    if not any(part.pip or part.wheels for part in recipe.parts):
        return None, ()
    report(f"resolving the Python packages of {recipe.name}")
    [installer] = pip.resolve(["pip"], (), (), {})
    pins: dict[str, str] = {}
    below: list[LocalWheel] = []
    found: list[tuple[LockedWheel, ...]] = []
    for part in recipe.parts:
        places = {name_of(name): where for name, where in part.pip}
        places |= {wheel.file: wheel.where for wheel in part.wheels}
        wheels: list[LockedWheel] = []
        if places:
            try:
                asked = [name for name, _ in part.pip]
                wheels = pip.resolve(asked, part.wheels, below, pins)
                if keep is not None:
                    kept = keep({wheel.name: wheel.version for wheel in wheels})
                    wheels = _keeping(pip, asked, part.wheels, below, pins, kept)
            except WorkFailed as cause:
                named = getattr(cause, "package", cause.what.partition(" ")[0])
                place = Problem(places.get(named, part.where), cause.what)
                raise WorkFailed(str(place), cause.hint) from cause.__cause__
        fresh = tuple(wheel for wheel in wheels if wheel.name not in pins)
        pins |= {wheel.name: wheel.version for wheel in fresh}
        below += part.wheels
        found.append(fresh)
    return installer, tuple(found)


def _keeping(
    pip: Pip,
    asked: Sequence[str],
    local: Sequence[LocalWheel],
    below: Sequence[LocalWheel],
    pins: Mapping[str, str],
    kept: dict[str, str],
) -> list[LockedWheel]:
    """With the versions `kept` too, but for those that stand in the way."""
    while True:
        try:
            return pip.resolve(asked, local, below, kept | dict(pins))
        except Conflict as cause:
            free = cause.kept & (kept.keys() - pins.keys())
            if not free:
                raise
            kept = {name: version for name, version in kept.items() if name not in free}


def platforms(libc: int) -> list[str]:
    """Those of amd64 wheels that run with glibc 2.`libc`, best first (PEP 600)."""
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    found = ["linux_x86_64"]
    for minor in range(libc, 4, -1):
        found.append(f"manylinux_2_{minor}_x86_64")
        if minor in old:
            found.append(f"{old[minor]}_x86_64")
    return found


def normalized(name: str) -> str:
    """PEP 503.

    >>> normalized("Zope.Interface")
    'zope-interface'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """The normalized name in NAME, NAME[EXTRA] or NAME==VERSION."""
    return normalized(re.split(r"[\[=]", requirement)[0])


def requirements(wheels: Iterable[LockedWheel]) -> str:
    """For pip: exactly these."""
    return "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels)
