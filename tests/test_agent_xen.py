"""What the agent does with Xen's console, beside a XenStore in memory. That a guest is restored is the xen tier's."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from contextualize import agent


class Xen:
    """A guest's XenStore, its event channels, and a QEMU that connects as soon as it finds a ring."""

    def __init__(self, console: int, disks: tuple[int, ...], held: tuple[int, ...] = ()) -> None:
        self.store = {"device/console/1/port": str(console), "device/console/1/ring-ref": "8"}
        self.store |= {"device/console/1/name": agent.PORT, "device/console/1/backend": "qemu/1"}
        self.store |= {"qemu/1/state": "4"}
        self.disks = [f"vbd-{51712 + 16 * n}" for n in range(len(disks))]
        for name, port in zip(self.disks, disks, strict=True):
            self.store[f"device/{name.replace('-', '/')}/event-channel"] = str(port)
        self.taken = {*held, console, *disks}
        self.said: list[str] = []

    def free(self) -> int:
        port = next(n for n in range(1, 99) if n not in self.taken)
        self.taken.add(port)
        return port

    def xenstore(self, path: str, act: int = agent.READ, value: str = "") -> str:
        if act == agent.WRITE:
            self.store[path] = value
            if value == "5":
                self.store["qemu/1/state"] = "6"
            if value == "1":
                assert "device/console/1/ring-ref" not in self.store, "QEMU would take the old one"
                self.store["qemu/1/state"] = "2"
        elif path not in self.store:
            raise OSError(path)
        elif act == agent.REMOVE:
            del self.store[path]
        return self.store.get(path, "")

    def put(self, path: str, text: str) -> None:
        self.said.append(f"{path.rpartition('/')[2]} {text}")
        if path.endswith("unbind"):
            assert self.store["qemu/1/state"] == "6", "it would write into a page that is another's"
            self.taken.discard(int(self.store["device/console/1/port"]))
        else:
            self.store["device/console/1/port"] = str(self.free())


@pytest.fixture
def xen(monkeypatch):
    def made(*told: object, **more: object) -> Xen:
        found = Xen(*told, **more)  # type: ignore[arg-type]
        devices = ["console-1", *found.disks, "vbd-768", "vif-0"]
        monkeypatch.setattr(os, "listdir", lambda path: devices if "/xen/" in path else [])
        monkeypatch.setattr(os, "open", lambda *_: os.dup(2))
        monkeypatch.setattr(os.path, "exists", lambda _: True)
        monkeypatch.setattr(fcntl, "ioctl", lambda *_: found.free())
        monkeypatch.setattr(agent, "xenstore", found.xenstore)
        monkeypatch.setattr(agent, "put", found.put)
        return found

    return made


@pytest.mark.parametrize("disks", [(9,), (9, 10), (9, 14, 30)])
def test_a_console_that_came_before_the_disks_is_bound_again_behind_them(xen, disks):
    found = xen(8, disks, held=(1, 2, 3, 4, 5, 6, 7, 11))
    assert agent.find_port() == "/dev/hvc1"
    assert found.said == ["unbind console-1", "bind console-1"]
    assert int(found.store["device/console/1/port"]) > max(disks)
    assert agent.find_port() == "/dev/hvc1" and len(found.said) == 2, "it is behind them now"


@pytest.mark.parametrize("disks", [(), (8, 9)])
def test_a_console_that_comes_last_is_left_alone(xen, disks):
    found = xen(10, disks)
    assert agent.find_port() == "/dev/hvc1" and found.said == []


def test_a_kernel_without_event_channels_for_programs_keeps_its_console(xen, monkeypatch, capsys):
    found = xen(8, (9,))

    def absent(*_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(os, "open", absent)
    assert agent.find_port() == "/dev/hvc1" and found.said == []
    assert (
        "restored from a disk this node would not go on: no such device" in capsys.readouterr().err
    )


def test_a_console_that_does_not_close_is_left_bound(xen, monkeypatch, capsys):
    found = xen(8, (9,))
    monkeypatch.setattr(agent, "until", lambda *_: False)
    assert agent.find_port() == "/dev/hvc1" and found.said == []
    assert "its console does not close" in capsys.readouterr().err


def test_a_terminal_that_is_hung_up_is_opened_again():
    """After a restore there is another console behind the same name."""
    ours, theirs = os.openpty()
    channel = agent.Channel("n-1", "ab" * 32)
    port = agent.Port(theirs)
    ended = threading.Event()

    def serve() -> None:
        channel.converse(port)
        ended.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    os.close(ours)
    assert ended.wait(5)
    os.close(channel.wake_read)
    os.close(channel.wake_write)
