"""What planning must know of the world: where Debian packages come from, and which exact ones a recipe means now.

The mirror is the machine's own: its apt configuration is read, the stanzas of the plan's suite are kept, the rest
(other vendors' archives) is left out. Nothing here names a mirror.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from builder.errors import EnvironmentLacks, Problem, WorkFailed
from builder.language.flat import Flat
from builder.packages.apt import BASE, AbsentPackage, Apt
from builder.plan import Facts, Report, wanted
from builder.steps import Locked

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def sources(suite: str, etc: Path = Path("/etc/apt")) -> str:
    """apt's sources for `suite`, deb822, from the configuration in `etc`. EnvironmentLacks if it has no such suite."""
    one_line = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    deb822 = sorted((etc / "sources.list.d").glob("*.sources"))
    stanzas = [
        *stanzas_of_lists((p.read_text() for p in one_line if p.is_file()), suite),
        *stanzas_of_deb822((p.read_text() for p in deb822), suite),
    ]
    if not stanzas:
        raise EnvironmentLacks(
            f"this machine's apt knows no mirror of Debian {suite}",
            f"add one to {etc}/sources.list, as in: deb http://MIRROR/debian {suite} main",
        )
    return "\n\n".join(dict.fromkeys(stanzas)) + "\n"


def resolve(recipe: Flat, apt: Apt, report: Report) -> Facts:
    """Ask the mirror once: the exact packages of every part, and the date of the answer.

    Each part is resolved on top of what its parents install, as it will be built, from Debian's archive, its own and
    its parents'. The date is Debian's: no other archive makes the layers of parents anew.
    Raises WorkFailed naming the recipe's line of a package that does not exist; WorkFailed for the mirror's part.
    """
    report(f"resolving the packages of {recipe.name}")
    epoch = apt.update()
    installed = ""
    found: list[tuple[Locked, ...]] = []
    for number, part in enumerate(recipe.parts):
        names = wanted(recipe, part)
        if not names:
            found.append(())
            continue
        here = apt.over(recipe.archives(number + 1))
        here.update()
        try:
            locked, installed = here.resolve([*(BASE if number == 0 else ()), *names], installed)
        except AbsentPackage as cause:
            places = {name.partition("=")[0]: where for name, where in part.packages}
            raise WorkFailed(
                str(Problem(places.get(cause.package, part.where), cause.what)),
                "check the name and version; apt-cache policy PACKAGE shows what the mirror has",
            ) from None
        found.append(tuple(sorted(locked, key=lambda p: p.name)))
    return Facts(epoch, tuple(found))


def stanzas_of_deb822(texts: Iterable[str], suite: str) -> list[str]:
    """The stanzas that serve `suite`, its updates or its security, reduced to what identifies a source."""
    found = []
    for text in texts:
        clean = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        for stanza in re.split(r"\n\s*\n", clean):
            joined = re.sub(r"\n[ \t]+", " ", stanza)
            fields = {
                key.strip().lower(): value.strip()
                for key, _, value in (line.partition(":") for line in joined.splitlines())
                if value
            }
            if fields.get("enabled", "yes").lower() == "no":
                continue
            found += _stanza(
                fields.get("types", "").split(), fields.get("uris", "").split(),
                fields.get("suites", "").split(), fields.get("components", "").split(),
                fields.get("signed-by", ""), suite, fields.get("check-valid-until", ""),
            )  # fmt: skip
    return found


def stanzas_of_lists(texts: Iterable[str], suite: str) -> list[str]:
    """The same from one-line sources: `deb [signed-by=...] URI SUITE COMPONENT...`."""
    found = []
    for text in texts:
        for line in text.splitlines():
            match = re.match(r"\s*(deb)\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+(.+)", line)
            if match:
                options = dict(o.partition("=")[::2] for o in (match[2] or "").split())
                found += _stanza(
                    [match[1]], [match[3]], [match[4]], match[5].split(),
                    options.get("signed-by", ""), suite, options.get("check-valid-until", ""),
                )  # fmt: skip
    return found


def _stanza(
    types: list[str],
    uris: list[str],
    suites: list[str],
    components: list[str],
    key: str,
    suite: str,
    dated: str,
) -> list[str]:
    wanted = [s for s in suites if s in (suite, f"{suite}-updates", f"{suite}-security")]
    if "deb" not in types or not wanted or "main" not in components or not uris:
        return []
    # Of a snapshot the Release files have run out, and whoever configured it said that this is right.
    past = "\nCheck-Valid-Until: no" if dated.lower() == "no" else ""
    return [
        f"Types: deb\nURIs: {' '.join(uris)}\nSuites: {' '.join(wanted)}\n"
        f"Components: main\nSigned-By: {key or KEYRING}{past}"
    ]
