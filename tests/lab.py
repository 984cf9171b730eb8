"""A cluster without guests: the real agent of each node in a process of its own, behind a stand-in for QEMU's channel.

What only a guest has is replaced in `run_agent`: the seed's disk, addresses, sshd, and the root of the files. The wait
is the real one, in this process (`Lab.wait`) or in one that can be killed (`Lab.site`).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import domain, wait
from cluster.hosts.fake import FakeHypervisor
from cluster.ledger import ClusterRow, Ledger, NodeRow
from contextualize import broker as brokers
from contextualize.coordinator import Coordinator
from tests.invented import SECRET, drawn

TEXT = """\
cluster: demo
network: 10.7.0.0/24
hook_limit: 60s
roles:
  head:
    image: worker
    cpu: {guarantee: 0.5, limit: 1}
    memory: 512M
    network: {guarantee: 20Mbit, limit: 100Mbit}
    context:
      provides: [{name: key, secret: true, to: [worker]}]
  worker:
    count: 2
    image: worker
    cpu: {guarantee: 0.5, limit: 2}
    memory: 512M
    network: {guarantee: 20Mbit, limit: 100Mbit}
    context:
      requires: [{fact: key}]
      files: [{path: /etc/key, fact: key, mode: 0400}]
"""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.lab", "contextualize.agent"])


def quick() -> None:
    """Waits as short as a test wants them."""
    from contextualize import agent

    agent.POLL, brokers.RETRY, wait.LOOK = 0.01, 0.01, 0.05


class Qemu(threading.Thread):
    """One node's virtio-serial port. Without a reader in the guest nothing is taken from the host; without a host,
    what the guest writes is gone.
    """

    def __init__(self, host: Path, guest: Path) -> None:
        super().__init__(daemon=True)
        self.ends = [self.listen(host), self.listen(guest)]
        self.open: list[socket.socket | None] = [None, None]
        self.wake, self.woken = socket.socketpair()
        self.unplugged = False

    @staticmethod
    def listen(path: Path) -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.bind(str(path))
        found.listen()
        return found

    def run(self) -> None:
        while True:
            host, guest = self.open
            # As QEMU: one at a time; the next host waits until the one before has gone.
            watched = [self.woken, *(e for e, s in zip(self.ends, self.open, strict=True) if not s)]
            watched += [guest] if guest else []
            watched += [host] if host and guest else []
            ready, _, _ = select.select(watched, [], [], 0.02 if host and not guest else None)
            if self.woken in ready:
                return
            for n, end in enumerate(self.ends):
                if end in ready:
                    self.open[n] = end.accept()[0]
            for n in (0, 1):
                if self.open[n] in ready:
                    self.carry(n)
            if host and not guest:
                with contextlib.suppress(BlockingIOError):
                    if host.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"":
                        self.shut(0)

    def carry(self, n: int) -> None:
        source, sink = self.open[n], self.open[1 - n]
        assert source is not None
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.shut(n)
        elif sink is not None:
            with contextlib.suppress(OSError):
                sink.sendall(data)

    def shut(self, n: int) -> None:
        end, self.open[n] = self.open[n], None
        assert end is not None
        end.close()

    def unplug(self) -> None:
        self.wake.send(b".")
        self.join(2)
        for end in (*self.ends, *self.open, self.wake, self.woken):
            if end is not None:
                end.close()


def run_agent(folder: str, limits: dict[str, int]) -> None:
    """The real agent; its root is `folder`/root."""
    from contextualize import agent

    quick()
    root = f"{folder}/root"
    agent.RUN, agent.HOOKS = f"{root}/run/philoxenia", f"{root}/etc/philoxenia"
    agent.KEPT = f"{root}/var/lib/philoxenia/context.json"
    agent.hooks_of.__defaults__ = agent.change_hooks.__defaults__ = (agent.HOOKS,)
    install = agent.install

    def rooted(files: list[dict[str, Any]]) -> list[str]:
        own = [f if f["path"].startswith(root) else {**f, "path": root + f["path"]} for f in files]
        return [path.removeprefix(root) for path in install(own)]

    def reach(_channel: agent.Channel) -> agent.Port:
        out = socket.socket(socket.AF_UNIX)
        out.connect(f"{folder}/guest")
        out.setblocking(False)
        return agent.Port(out.detach())

    def seed(_deadline: float) -> dict[str, Any]:
        return json.loads(Path(folder, "seed.json").read_text())  # type: ignore[no-any-return]

    agent.install, agent.read_seed = rooted, seed
    agent.identify = agent.grow_root = lambda *_: None
    agent.wait_for_ssh = lambda _deadline: True
    agent.boot_id = Path(folder, "boot").read_text
    agent.Channel.open = reach  # type: ignore[method-assign, assignment]
    sys.stderr = open(f"{folder}/console", "a", buffering=1)  # noqa: SIM115
    if limits:
        import resource

        for name, most in limits.items():
            resource.setrlimit(getattr(resource, name), (most, most))
    agent.main()


def run_site(folder: str, text: str, total: float) -> None:
    """A wait that can be killed; says each change in `folder`/said, and how it ended."""
    quick()
    with open(f"{folder}/said", "a", buffering=1) as said:
        lab = Lab(Path(folder), text, fresh=False)
        try:
            rows = lab.wait(total, lambda rows: [print(r.name, r.stage, file=said) for r in rows])
            print("ended", *sorted({r.stage for r in rows.values()}), file=said)
        except Exception as cause:
            print("failed", str(cause).partition("\n")[0], file=said)


class Machines(FakeHypervisor):
    """Machines in memory; somebody may look on when they are looked at."""

    onlooker: Callable[[], None] = staticmethod(lambda: None)

    def alive(self) -> frozenset[str]:
        self.onlooker()
        return super().alive()


class Lab:
    def __init__(self, folder: Path, text: str = TEXT, fresh: bool = True) -> None:
        self.folder, self.text = folder, text
        self.plan = drawn(text)
        self.nodes = {n.name: n for n in self.plan.nodes}
        self.hypervisor = Machines()
        self.agents: dict[str, Any] = {}
        self.ports: dict[str, Qemu] = {}
        self.sites: list[Any] = []
        self.mended: list[str] = []
        self.ledger = Ledger(folder)
        for n in self.nodes.values():
            self.hypervisor.start(n.domain, domain.xml(n.machine, n.context))
            if fresh:
                (folder / n.name / "root/etc/philoxenia/hooks.d").mkdir(parents=True)
                (folder / n.name / "seed.json").write_bytes(
                    self.plan.seed(n.name)["philoxenia.json"]
                )
                self.ports[n.name] = Qemu(folder / n.name / "host", folder / n.name / "guest")
                self.ports[n.name].start()
        if fresh:
            rows = [NodeRow("demo", n.name, n.role, n.address) for n in self.nodes.values()]
            network = str(self.plan.network)
            self.ledger.open_cluster(ClusterRow("demo", "lab", network, text, SECRET, "now"), rows)

    def root(self, node: str) -> Path:
        return self.folder / node / "root"

    def hook(self, node: str, text: str, folder: str = "hooks.d", name: str = "10-hook") -> None:
        place = self.root(node) / "etc/philoxenia" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)

    # machines

    def boot(self, *nodes: str, boot: str = "one", **limits: int) -> None:
        for node in nodes or self.nodes:
            if node not in self.agents:
                (self.folder / node / "boot").write_text(boot)
                (self.root(node) / "run").mkdir(exist_ok=True)
                self.start(node, **limits)

    def start(self, node: str, **limits: int) -> None:
        """Its unit starts the agent."""
        args = (str(self.folder / node), limits)
        self.agents[node] = _processes.Process(target=run_agent, args=args, daemon=True)
        self.agents[node].start()

    def kill(self, node: str) -> None:
        """kill -9 of the agent alone."""
        agent = self.agents.pop(node)
        os.kill(agent.pid, signal.SIGKILL)
        agent.join(5)

    def console(self, node: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / node / "console").read_text()
        return ""

    # our side

    def wait(
        self, total: float = 60, tell: Callable[[Sequence[NodeRow]], Any] = lambda _: None,
        again: Sequence[str] = (), mend: Callable[[str], None] | None = None,
        late: Callable[[wait.Wait], bool] = lambda _: False, **limits: Any,
    ) -> dict[str, NodeRow]:  # fmt: skip
        """late  when it holds, the deadline has come: no machine is too slow for a test"""
        rows = {r.name: r for r in self.ledger.nodes("demo")}
        watched = [
            wait.Watched(rows[n.name], n.domain, self.folder / n.name / "host", n.identity.token, "base")
            for n in self.nodes.values()
        ]  # fmt: skip
        exchange = self.plan.exchange({"head": 1, "worker": 2})
        coordinator = Coordinator(self.plan.documents, exchange, self.nodes, again)

        def keep(rows: Sequence[NodeRow]) -> None:
            self.ledger.tell(*rows)
            tell(rows)

        found = wait.Wait(
            watched, coordinator, self.hypervisor, wait.Limits(total, **limits), keep,
            self.console, mend or self.mended.append,
        )  # fmt: skip

        def look() -> None:
            if late(found):
                found.limits = replace(found.limits, total=0.0)

        self.hypervisor.onlooker = look
        return found.until_ready()

    def site(self, total: float = 60) -> Any:
        """A wait in a process of its own."""
        args = (str(self.folder), self.text, total)
        self.sites.append(_processes.Process(target=run_site, args=args, daemon=True))
        self.sites[-1].start()
        return self.sites[-1]

    def said(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "said").read_text().splitlines()
        return []

    def close(self) -> None:
        for process in (*self.agents.values(), *self.sites):
            process.kill()
            process.join(5)
        self._end_hooks()
        for port in self.ports.values():
            port.unplug()
        self.ledger.close()

    def _end_hooks(self) -> None:
        """A hook is in a session of its own and outlives an agent that was killed."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if str(self.folder).encode() in (entry / "cmdline").read_bytes():
                    os.killpg(int(entry.name), signal.SIGKILL)


def until(true: Callable[[], Any], patience: float = 30.0, what: Callable[[], Any] = str) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)
