"""A recipe's boot tests: guests of its image in a sandbox host of their own, asked over SSH, and gone in any case.

Without a cluster file of the recipe there is one node, appliance-1, and peer-1 of the same image if a test wants a
peer. What a trial that was killed left behind is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builder.document import Document, parse
from builder.errors import WorkFailed, explain
from builder.images.manifest import Manifest
from builder.language.flat import Flat
from builder.plan import Report
from builder.run import lives, run
from builder.testing import session
from builder.testing.session import Case, Outcome
from cluster import launch
from cluster import spec as specs
from cluster.hosts import sandbox
from cluster.site import Site, forget
from cluster.spec import ClusterSpec

TIMEOUT = 900.0
"""Seconds for all boot tests of one recipe, once its guests are ready."""

_ROLE = """
  {role}:
    image: {image}
    cpu: {{guarantee: 0.4, limit: 1}}
    memory: 384M
    network: {{guarantee: 10Mbit, limit: 100Mbit}}
"""


def boot(
    site: Site, flat: Flat, image: Manifest, peer: bool, on: str | None, report: Report
) -> Outcome:
    """Boot, test, remove. A guest that does not become ready is one test that failed.

    on  the host to use; else one of its own is started
    Raises InputError for a wrong cluster file, EnvironmentLacks, NoRoom, and WorkFailed when pytest does not run.
    """
    name = f"test-{os.getpid()}"
    _sweep(site, report)
    spec, document = described(flat, image, peer, name)
    with (
        tempfile.TemporaryDirectory(prefix="phx-test-") as folder,
        _host(site, on, name) as host,
        _gone(site, name, report),
    ):
        file = Path(folder) / "cluster.yaml"
        file.write_text(specs.text_of(document))
        try:
            launch.up(site, file, host, False, report)
        except WorkFailed as error:
            case = Case(f"{flat.name}.boot", 0.0, "failed", explain(error))
            return session.single("boot", flat.name, case)
        ours = [node for node, role in spec.names if spec.roles[role].image == image.id]
        others = [node for node, _ in spec.names if node not in ours]
        brief = {
            "boot": True, "tree": "", "nodes": [*ours, *others],
            "ssh": [str(site.files(name) / "ssh_config"), folder], "parameters": dict(flat.parameters),
        }  # fmt: skip
        report(f"{flat.name}: boot tests")
        junit = Path(folder) / "tests.xml"
        done = run(
            session.argv(flat, str(junit), "boot"), timeout=TIMEOUT, check=False, cwd=Path(session.root(flat)),
            env=session.environment(brief, folder),
        )  # fmt: skip
        written = junit.read_text() if junit.is_file() else ""
        return session.read("boot", done.text + done.tail, written)


def described(flat: Flat, image: Manifest, peer: bool, name: str) -> tuple[ClusterSpec, Document]:
    """The cluster for the boot tests, called `name`; roles of the recipe's own image have exactly `image`."""
    if flat.test_cluster:
        document = specs.load(Path(flat.test_cluster))[1]
    else:
        wanted = ["appliance", "peer"] if peer else ["appliance"]
        text = "".join(_ROLE.format(role=role, image=flat.name) for role in wanted)
        document = parse(f"cluster: {name}\nroles:{text}", f"the boot tests of {flat.name}")
    roles = {
        role: {**told, "image": image.id} if _is(told.get("image"), flat.name) else told
        for role, told in document.data["roles"].items()
    }
    return specs.checked(replace(document, data={**document.data, "cluster": name, "roles": roles}))


def _is(image: object, name: str) -> bool:
    return isinstance(image, str) and image.partition(":")[0] == name


@contextlib.contextmanager
def _host(site: Site, on: str | None, name: str) -> Iterator[str]:
    """A host to boot on: the one that is named, or one that is ours and goes again."""
    if on is not None:
        yield site.ledger.host(on).name
        return
    started = site.start_host(name)
    try:
        yield name
    finally:
        sandbox.down(started)
        site.ledger.drop_host(name)


@contextlib.contextmanager
def _gone(site: Site, cluster: str, report: Report) -> Iterator[None]:
    """However this ends, the cluster is gone."""
    try:
        yield
    finally:
        if cluster in {row.name for row in site.ledger.clusters()}:
            launch.down(site, cluster, report)


def _sweep(site: Site, report: Report) -> None:
    """Remove what trials left that were killed."""
    dead = {h.name for h in site.ledger.hosts() if _dead(h.name)}
    for row in site.ledger.clusters():
        if row.host in dead:
            forget(site, row.name)
        elif _dead(row.name):
            launch.down(site, row.name, report)
    for name in dead:
        sandbox.down(site.ledger.host(name))
        site.ledger.drop_host(name)


def _dead(name: str) -> bool:
    pid = re.fullmatch(r"test-(\d+)", name)
    return pid is not None and not lives(int(pid[1]))
