"""The package cache: exact .debs fetched once through apt, checked against their lock, offered to a build.

apt is asked with a root of its own (its state, its lists, no installed package), so neither the machine's packages nor
its configuration beyond the sources matter. What a build installs comes from an archive that holds exactly the
locked packages and nothing else: no step of a build reaches the network, and apt cannot choose another version.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.claims import alone
from builder.errors import CommandFailed, WorkFailed
from builder.language.flat import Archive
from builder.packages.archive import file_name, whole
from builder.plan import Report
from builder.run import run
from builder.steps import Locked

APT_TIMEOUT = 900.0
BASE = ("?essential", "?priority(required)", "apt")
"""What every Debian has: mmdebstrap's `minbase`. Patterns of apt-patterns(7)."""

_ABSENT = re.compile(
    r"Unable to locate package (?P<a>\S+)"
    r"|Version '[^']*' for '(?P<b>[^':]+)[^']*' was not found"
    r"|Package '?(?P<c>[a-z0-9+.-]+)'? has no installation candidate"
    r"|Couldn't find any package by (?:glob|regex) '(?P<d>[^']+)'"
)


class AbsentPackage(WorkFailed):
    """The archive, as this machine sees it, has no such package or version."""

    def __init__(self, package: str) -> None:
        super().__init__(f"no package '{package}' in Debian's archive as this machine sees it")
        self.package = package


@dataclass(frozen=True, slots=True)
class Apt:
    """apt over `sources` (deb822 text), with all its state below `state`.

    more  archives of the recipe, besides the machine's sources
    pins  versions to keep to, by package name
    gate  the lock file of all that use `archives`
    """

    state: Path
    archives: Path
    sources: str
    log: Path
    more: tuple[Archive, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    gate: Path | None = None
    asked: dict[str, int | WorkFailed] = field(default_factory=dict, compare=False)
    """What the mirror answered to `update`: it is asked once, so that many recipes get one answer."""

    @contextlib.contextmanager
    def alone(self, report: Report) -> Iterator[None]:
        """Nobody else uses apt's state meanwhile; `update` and `resolve` are called inside."""
        gate = self.gate or self.state / "phx.lock"
        with alone(gate, lambda: report("waiting for another build's apt")):
            yield

    def over(self, archives: Sequence[Archive], text: str = "") -> Apt:
        """The same with more sources. Its state is its own, so that nobody's lists are lost, and begins as ours."""
        if not archives and not text:
            return self
        told = [[a.name, *a.told()] for a in archives]
        name = hashlib.sha256(json.dumps([self.sources, text, told]).encode()).hexdigest()[:16]
        state = self.state / "over" / name
        if not state.exists():
            state.mkdir(parents=True)
            with contextlib.suppress(OSError):
                shutil.copytree(
                    self.state / "lists", state / "lists", copy_function=os.link,
                    ignore=shutil.ignore_patterns("lock", "partial"),
                )  # fmt: skip
        stanzas = [self.sources, *(a.stanza(str(state / "keys")) for a in archives), text]
        return replace(
            self, state=state, sources="\n".join(filter(None, stanzas)), more=tuple(archives),
            gate=self.gate or self.state / "phx.lock",
        )  # fmt: skip

    def update(self) -> int:
        """Fetch the lists; the newest date of their Release files, in seconds since 1970.

        Raises WorkFailed when the mirror does not answer or its signature does not hold.
        """
        used = self.state / "sources" / "debian.sources"
        before = self.asked.get(self.sources)
        if isinstance(before, WorkFailed):
            raise before
        # Somebody's other sources would have taken our lists away.
        if before is not None and used.is_file() and used.read_text() == self.sources:
            return before
        self._prepare("")
        try:
            self._run("update", "--error-on=any")
        except CommandFailed as cause:
            failed = self.asked[self.sources] = unreachable(cause, self.more)
            raise failed from cause
        dates = []
        for release in (self.state / "lists").glob("*Release"):
            found = re.search(r"^Date: (.+)$", release.read_text(errors="replace"), re.M)
            if found:
                dates.append(int(email.utils.parsedate_to_datetime(found[1]).timestamp()))
        if not dates:
            raise WorkFailed("the mirror's lists have no Release file with a date")
        self.asked[self.sources] = max(dates)
        return max(dates)

    def resolve(self, wanted: Sequence[str], installed: str) -> tuple[list[Locked], str]:
        """What apt would install for `wanted`, and dpkg's status with that added.

        wanted     names, name=version, or apt patterns
        installed  dpkg's status of what is there already
        Raises AbsentPackage, or WorkFailed with apt's own words when they cannot be installed together.
        """
        self._prepare(installed)
        # A folder without packages: apt names only what it would have to fetch.
        nowhere = f"Dir::Cache::archives={self.state}/none"
        (self.state / "none" / "partial").mkdir(parents=True, exist_ok=True)
        try:
            said = self._run(
                "install", "-y", "-qq", "--no-remove", "--allow-downgrades", "--print-uris",
                "-o", nowhere, *wanted,
            )  # fmt: skip
        except CommandFailed as cause:
            absent = _ABSENT.search(cause.tail)
            if absent:
                raise AbsentPackage(next(g for g in absent.groups() if g)) from None
            raise WorkFailed("apt finds no way to install these packages together") from cause
        files = re.findall(r"^'\S+' (\S+)_(\S+)_(\S+)\.deb ", said, re.M)
        if not files:
            return [], installed
        exact = [f"{name}={version.replace('%3a', ':')}" for name, version, _ in files]
        known = self._shown(exact)
        locked, status = [], installed
        for name, version, _ in files:
            stanza = known[name, version.replace("%3a", ":")]
            fields = _fields(stanza)
            locked.append(
                Locked(
                    name,
                    fields["Version"],
                    fields["Architecture"],
                    fields["SHA256"],
                    int(fields["Size"]),
                )
            )
            status += _installed(stanza) + "\n\n"
        return locked, status

    def installed(self, packages: Iterable[Locked]) -> str:
        """dpkg's status of a machine that has these; without those that no source has any more."""
        found = []
        for stanza in self._shown(f"{p.name}={p.version}" for p in packages).values():
            found.append(_installed(stanza) + "\n\n")
        return "".join(found)

    def _shown(self, exact: Iterable[str]) -> dict[tuple[str, str], str]:
        """The stanzas of exact packages (name=version), by name and version."""
        known: dict[tuple[str, str], str] = {}
        for stanza in self._cache("show", *exact).split("\n\n"):
            if stanza.strip():
                fields = _fields(stanza)
                known.setdefault((fields["Package"], fields["Version"]), stanza.strip("\n"))
        return known

    def fetch(self, packages: Iterable[Locked], report: Report) -> None:
        """Have every package's file in the cache, with the locked sha256.

        Raises AbsentPackage naming the first version that the mirror no longer has; WorkFailed for a wrong hash.
        """
        packages = list(packages)
        if not self._missing(packages):
            return
        with self.alone(report):
            self._fetch(self._missing(packages), report)  # another build may have fetched some

    def _missing(self, packages: Iterable[Locked]) -> list[Locked]:
        return [p for p in packages if not whole(self.archives / file_name(p), p)]

    def _fetch(self, missing: Sequence[Locked], report: Report) -> None:
        if not missing:
            return
        report(f"fetching {len(missing)} packages, {sum(p.size for p in missing) >> 20} MiB")
        self._prepare("")
        for p in missing:  # apt would take a file of that name and length for the right one
            (self.archives / file_name(p)).unlink(missing_ok=True)
        exact = [f"{p.name}:{p.architecture}={p.version}" if p.architecture != "all"
                 else f"{p.name}={p.version}" for p in missing]  # fmt: skip
        try:
            self._run("download", *exact)
        except CommandFailed as cause:
            absent = _ABSENT.search(cause.tail)
            if absent:
                name = next(g for g in absent.groups() if g)
                lost = next((p for p in missing if p.name == name), None)
                gone = AbsentPackage(f"{name}={lost.version}" if lost else name)
                gone.hint = (
                    "the lock is older than the mirror: phx lock RECIPE --update shows what changed"
                )
                raise gone from None
            raise unreachable(cause, self.more) from cause
        for p in missing:
            if not whole(self.archives / file_name(p), p):
                (self.archives / file_name(p)).unlink(missing_ok=True)
                raise WorkFailed(
                    f"{p.name} {p.version} came with another sha256 than its lock says"
                )

    def _prepare(self, installed: str) -> None:
        for name in ("lists/partial", "etc/apt.conf.d", "etc/preferences.d", "sources", "cache"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        (self.archives / "partial").mkdir(parents=True, exist_ok=True)
        (self.state / "sources" / "debian.sources").write_text(self.sources)
        (self.state / "status").write_text(installed)
        (self.state / "etc" / "preferences.d" / "pins").write_text(
            "\n".join(
                f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n"
                for name, version in sorted(self.pins.items())
            )
        )
        for archive in self.more:
            (self.state / "keys").mkdir(exist_ok=True)
            (self.state / "keys" / archive.key_file).write_bytes(archive.key)
        (self.state / "apt.conf").write_text(
            f'Dir "{self.state}"; Dir::State "{self.state}"; Dir::State::status "{self.state}/status";\n'
            f'Dir::State::Lists "{self.state}/lists"; Dir::Cache "{self.state}/cache";\n'
            f'Dir::Cache::archives "{self.archives}"; Dir::Etc "{self.state}/etc";\n'
            f'Dir::Etc::SourceParts "{self.state}/sources"; Dir::Etc::SourceList "/dev/null";\n'
            'Dir::Etc::TrustedParts "/etc/apt/trusted.gpg.d"; Dir::Bin::dpkg "/usr/bin/dpkg";\n'
            'APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Install-Recommends "false";\n'
            'Acquire::Languages "none"; APT::Sandbox::User "root"; APT::Get::AllowUnauthenticated "false";\n'
        )

    def _run(self, verb: str, *words: str) -> str:
        return self._program("apt-get", "-q", verb, *words)

    def _cache(self, verb: str, *words: str) -> str:
        return self._program("apt-cache", verb, "--no-all-versions", *words, check=False)

    def _program(self, *argv: str, check: bool = True) -> str:
        env = {**os.environ, "APT_CONFIG": str(self.state / "apt.conf"), "LC_ALL": "C.UTF-8"}
        return run(
            argv, timeout=APT_TIMEOUT, env=env, cwd=self.archives, log=self.log, check=check
        ).text


def unreachable(cause: CommandFailed, more: Sequence[Archive] = ()) -> WorkFailed:
    """What apt's failure to fetch means to the user. `more` are the recipe's archives, which may be to blame."""
    said = cause.tail
    if "No space left on device" in said:
        return WorkFailed("the disk is full", "make room, or name another folder with PHX_HOME")
    # apt writes file:/a for file:///a.
    guilty = next((a for a in more if a.uri.partition("://")[2].rstrip("/") in said), None)
    whose = f"{guilty.where}: the archive '{guilty.name}'" if guilty else "the mirror"
    if re.search(r"Release file for \S+ (is expired|is not valid)", said):
        return WorkFailed(
            f"{whose} has a Release file that has run out (Valid-Until)",
            "where it is a snapshot that is right: say "
            + (
                "snapshot: true"
                if guilty
                else "Check-Valid-Until: no in this machine's apt sources"
            ),
        )
    if re.search(r"signature|NO_PUBKEY|not signed|Hash Sum mismatch|unexpected size", said):
        if guilty is None:
            return WorkFailed(
                "the mirror's files do not carry Debian's signature, or not the signed hashes"
            )
        return WorkFailed(
            f"{whose} does not carry the signature of its key, or not the signed hashes",
            "gpg --show-keys FILE tells whose key it is; if that is right, ask who serves the archive",
        )
    if "does not have a Release file" in said and guilty is not None:
        return WorkFailed(f"{whose} has no suite {guilty.suite}", "check uri and suite")
    if guilty is not None:
        return WorkFailed(f"{whose} does not answer as an archive does", "check its uri")
    return WorkFailed("the mirror in this machine's apt configuration does not answer")


def _fields(stanza: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.M))


_STATUS = ("Package", "Architecture", "Version", "Multi-Arch", "Provides", "Depends", "Pre-Depends",
           "Breaks", "Conflicts", "Replaces", "Essential", "Priority")  # fmt: skip


def _installed(stanza: str) -> str:
    fields = _fields(stanza)
    lines = [f"{name}: {fields[name]}" for name in _STATUS if name in fields]
    return "\n".join([lines[0], "Status: install ok installed", *lines[1:]])
