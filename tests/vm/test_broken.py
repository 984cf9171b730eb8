"""What breaks around real guests, in one cluster that goes through all of it: our side killed at every stage, agents
killed, clocks years away, a disk that is full. What needs no guest is in tests/test_broken.py.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Phx, eventually

pytestmark = pytest.mark.vm

TEXT = """\
cluster: broken
roles:
  head:
    image: worker
    cpu: {guarantee: 0.2, limit: 1}
    memory: 256M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    context:
      provides: [{name: key, command: head -c 4000 /dev/urandom, secret: true, to: [worker]}]
  worker:
    count: 2
    image: worker
    channel: https
    cpu: {guarantee: 0.2, limit: 1}
    memory: 256M
    network: {guarantee: 1Mbit, limit: 100Mbit}
    context:
      sees: [head]
      requires: [{fact: key}]
      files:
        - {path: /root/key, fact: key, mode: 0400}
        - {path: /root/first, content: "{{ data.size }}\\n"}
        - {path: /root/size, content: "{{ 'x' * (data.size | int) }}"}
        - path: /etc/philoxenia/hooks.d/10-note
          mode: 0755
          content: |
            #!/bin/sh
            echo "$PHX_EVENT" >> /root/joined
data: {size: "SIZE"}
"""
FILL = """\
fallocate -l $(df --output=avail -B1 / | tail -1) /fill.0
i=0; for s in 8M 512K 32K 4K; do while fallocate -l $s /fill.$((i += 1)); do :; done; done 2>/dev/null
"""


class Broken:
    def __init__(self, phx: Phx, host: str, path: Path) -> None:
        self.phx, self.host, self.path = phx, host, path
        self.file("10")

    def file(self, size: str) -> Path:
        self.path.write_text(TEXT.replace("SIZE", size))
        return self.path

    def on(self, node: str, command: str) -> str:
        return self.phx.run("ssh", f"broken/{node}", "--", command).stdout

    def stages(self) -> dict[str, str]:
        rows = self.phx.json("ps", "broken")
        return {row["node"]: row["last"] for row in rows}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def broken(image: Phx, sandbox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    found = Broken(image, sandbox, tmp_path_factory.mktemp("broken") / "broken.yaml")
    yield found
    image.run("down", "broken", status=None)


def test_our_side_is_killed_at_every_stage(broken: Broken) -> None:
    for stage in ("started", "booted", "contextualized", "ready"):
        process = broken.phx.start("up", broken.path, "--host", broken.host)
        assert process.stderr is not None
        for line in process.stderr:
            if re.search(rf" {stage}\b", line):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    broken.phx.run("up", broken.path)
    assert set(broken.stages().values()) == {"healthy"}
    keys = {broken.on(f"worker-{n}", "sha256sum /root/key; cat /root/joined") for n in (1, 2)}
    assert len(keys) == 1 and keys.pop().endswith("\njoin\n"), "one key, and each hook ran once"


def test_an_agent_that_was_killed_is_told_what_is_new_by_the_next_phx(broken: Broken) -> None:
    for node in ("head-1", "worker-1"):
        broken.on(node, "systemctl kill --signal=KILL philoxenia-agent.service")
    broken.phx.run("recontext", broken.file("20"))
    assert [broken.on(f"worker-{n}", "cat /root/first") for n in (1, 2)] == ["20\n"] * 2
    assert len({broken.on(f"worker-{n}", "sha256sum /root/key") for n in (1, 2)}) == 1


def test_clocks_that_are_years_away(broken: Broken) -> None:
    """TLS, macs and the order of reports: nothing looks at a guest's clock."""
    for node, year in (("head-1", 1999), ("worker-1", 2001), ("worker-2", 2037)):
        assert str(year) in broken.on(node, f"date -s {year}-01-01 >/dev/null; date +%Y")
    broken.phx.run("recontext", broken.file("30"))
    assert [broken.on(f"worker-{n}", "cat /root/first") for n in (1, 2)] == ["30\n"] * 2


def test_a_disk_that_is_full_is_named_and_leaves_nothing_half(broken: Broken) -> None:
    broken.on("worker-2", FILL)
    started = time.monotonic()
    done = broken.phx.run("recontext", broken.file("3000000"), status=1)
    assert time.monotonic() - started < 30
    assert re.search(
        r"worker-2 failed: OSError: \[Errno 28\] No space left on device: '/root/(first|size)'",
        done.stderr,
    )
    said = broken.on(
        "worker-2", "cat /root/first; ls -A /root /etc | grep -c philoxenia$; stat -c %s /root/size"
    )
    assert said.split() == ["30", "1", "30"], (
        "all of before, and of the new nothing but /etc/philoxenia"
    )
    broken.on("worker-2", "rm /fill.*")
    broken.phx.run("up", broken.path)
    eventually("all is well", lambda: set(broken.stages().values()) == {"healthy"}, 5)
    assert [broken.on(f"worker-{n}", "stat -c %s /root/size") for n in (1, 2)] == ["3000000\n"] * 2
