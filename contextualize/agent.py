#!/usr/bin/python3
"""The context agent: runs in the guest, reads its seed, becomes the node that the seed describes, and says so.

Standard library only, one file: this is copied into images and into foreign guests. In order:

1. find the seed (an ISO 9660 volume called "cidata" that holds philoxenia.json) among the block devices;
2. apply it: host name, addresses, files (hosts, known_hosts, keys); then tell systemd that we are READY, so that
   sshd starts with the right keys;
3. grow the root filesystem to its disk;
4. run the hooks: /etc/philoxenia/hooks.d/*, then /etc/philoxenia/roles/ROLE/*, in the order of their names;
5. report each stage (booted, contextualized, healthy, or failed) over the channel, and stay to repeat it.

The channel is a virtio-serial port: it needs no network. Each report is one line {"body": text, "mac": hex},
the mac being HMAC-SHA256 of the body under the node's token. Nothing is sent before the other side says
{"ask": ...}, and then everything is sent again from the start: a broker that died and came back misses nothing.

A hook is an executable file. It gets PHX_CLUSTER, PHX_NODE, PHX_ROLE, PHX_ADDRESS and PHX_CONTEXT (a file with the
context as JSON, without secrets); it may take PHX_HOOK_LIMIT seconds. The first that fails stops the node.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 50 ms of an emulated boot
    from typing import Any

PORT = "org.philoxenia.context"
SEED = "philoxenia.json"
RUN = "/run/philoxenia"
HOOKS = "/etc/philoxenia"
TAIL = 4000
POLL = 0.1


def say(text: str) -> None:
    """A line for the journal and, through it, the console."""
    print(text, file=sys.stderr, flush=True)


# --- the seed -----------------------------------------------------------------------------------


def find_seed(devices: list[str] | None = None) -> str | None:
    """The block device whose ISO 9660 volume id (ECMA-119 8.4.7) is cidata; None if there is none."""
    for name in sorted(os.listdir("/sys/class/block")) if devices is None else devices:
        path = os.path.join("/dev", name)
        with contextlib.suppress(OSError), open(path, "rb") as disk:
            disk.seek(32768)
            head = disk.read(72)
            if head[1:6] == b"CD001" and head[40:72].strip().lower() == b"cidata":
                return path
    return None


def read_seed(deadline: float) -> dict[str, Any]:
    """The context as written by our side. RuntimeError when no seed shows up before `deadline`."""
    while True:
        device = find_seed()
        if device:
            break
        if time.monotonic() > deadline:
            seen = " ".join(sorted(os.listdir("/sys/class/block"))) or "none"
            raise RuntimeError(f"no seed disk (volume cidata); block devices seen: {seen}")
        time.sleep(POLL)
    point = os.path.join(RUN, "seed")
    os.makedirs(point, exist_ok=True)
    subprocess.run(["mount", "-t", "iso9660", "-o", "ro", device, point], check=True)
    try:
        with open(os.path.join(point, SEED), encoding="utf-8") as file:
            return json.load(file)  # type: ignore[no-any-return]
    finally:
        subprocess.run(["umount", point], check=False)


# --- becoming the node --------------------------------------------------------------------------


def write(path: str, text: str, mode: int) -> None:
    """Put a file in place whole, with its mode, unless it is there already."""
    with contextlib.suppress(OSError), open(path, "rb") as old:
        if old.read() == text.encode() and os.stat(path).st_mode & 0o7777 == mode:
            return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    aside = path + ".philoxenia"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    with open(
        os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
    ) as new:
        os.fchmod(new.fileno(), mode)
        new.write(text)
    os.replace(aside, path)


def apply(context: dict[str, Any]) -> None:
    """Host name, files, addresses. Raises OSError or CalledProcessError, naming what it was at."""
    socket.sethostname(context["node"])
    for file in context["files"]:
        write(file["path"], file["text"], int(file["mode"], 8))
    nics = {}
    for name in os.listdir("/sys/class/net"):
        with contextlib.suppress(OSError), open(f"/sys/class/net/{name}/address") as file:
            nics[file.read().strip()] = name
    lines = ["link set lo up"]
    for nic in context["nics"]:
        device = nics.get(nic["mac"])
        if device is None:
            raise RuntimeError(f"no network device with MAC {nic['mac']}; seen: {sorted(nics)}")
        lines += [f"addr replace {nic['address']} dev {device}", f"link set {device} up"]
        if nic.get("gateway"):
            lines.append(f"route replace default via {nic['gateway']} dev {device}")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write("0 2147483647")


def grow_root() -> None:
    """Let the root filesystem fill its disk; a disk of the same size costs one look."""
    with open("/proc/mounts") as mounts:
        device = next((line.split()[0] for line in mounts if line.split()[1] == "/"), "")
    if not device.startswith("/dev/"):
        return
    with open(f"/sys/class/block/{os.path.basename(device)}/size") as file:
        disk = int(file.read()) * 512
    root = os.statvfs("/")
    if root.f_blocks * root.f_frsize < disk * 0.9:
        subprocess.run(
            ["resize2fs", device], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3)); silent when systemd did not start us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect("\0" + address[1:] if address[0] == "@" else address)
            out.send(text.encode())


# --- hooks --------------------------------------------------------------------------------------


def hooks_of(role: str, base: str = HOOKS) -> list[str]:
    """Paths of the executables to run, in order."""
    found: list[str] = []
    for folder in (os.path.join(base, "hooks.d"), os.path.join(base, "roles", role)):
        if os.path.isdir(folder):
            paths = [
                os.path.join(folder, n) for n in sorted(os.listdir(folder)) if not n.startswith(".")
            ]
            found += [p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)]
    return found


def run_hook(path: str, env: dict[str, str], limit: float) -> tuple[int | None, float, str]:
    """(exit status, seconds, end of its output); status None when the limit passed."""
    started = time.monotonic()
    # Output goes to a file: a daemon that the hook starts would hold a pipe open for ever.
    log = os.path.join(RUN, "-".join(["hook", *path.split("/")[-2:]]) + ".log")
    with open(log, "w+b") as out:
        process = subprocess.Popen(
            [path],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            status = None
        out.seek(max(0, out.seek(0, 2) - TAIL))
        tail = out.read().decode(errors="replace")
    return status, round(time.monotonic() - started, 2), tail


# --- reporting ----------------------------------------------------------------------------------


class Channel(threading.Thread):
    """Keeps every report and sends them, all again after each {"ask"}, the new ones as they come."""

    def __init__(self, node: str, token: str, path: str | None = None) -> None:
        super().__init__(daemon=True)
        self.node, self.token, self.path = node, token.encode(), path
        self.boot = boot_id()
        self.lines: list[bytes] = []
        self.lock = threading.Lock()
        self.wake_read, self.wake_write = os.pipe()

    def report(self, stage: str, **facts: Any) -> None:
        """Add one report; `stage` is booted, contextualized, healthy or failed."""
        with self.lock:
            body = json.dumps(
                {
                    "node": self.node,
                    "boot": self.boot,
                    "seq": len(self.lines),
                    "stage": stage,
                    "uptime": uptime(),
                    **facts,
                }
            )
            mac = hmac.new(self.token, body.encode(), hashlib.sha256).hexdigest()
            self.lines.append(json.dumps({"body": body, "mac": mac}).encode() + b"\n")
        os.write(self.wake_write, b".")
        say(
            f"philoxenia: {self.node} {stage}"
            + (f": {facts['message']}" if "message" in facts else "")
        )

    def run(self) -> None:
        while True:
            try:
                path = self.path or find_port()
                if path:
                    self.converse(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            except OSError as cause:
                say(f"philoxenia: channel: {cause}")
            time.sleep(POLL)

    def converse(self, port: int) -> None:
        """Until the port fails. `sent` is None while nobody has asked."""
        sent: int | None = None
        heard = b""
        watch = select.poll()
        watch.register(port, select.POLLIN)
        watch.register(self.wake_read, select.POLLIN)
        try:
            while True:
                events = dict(watch.poll(1000))
                if events.get(self.wake_read):
                    os.read(self.wake_read, 4096)
                if events.get(port, 0) & (select.POLLHUP | select.POLLERR):
                    sent, heard = None, b""  # nobody is at the other end
                    time.sleep(POLL)
                elif events.get(port):
                    heard += os.read(port, 65536)
                    *lines, heard = heard.split(b"\n")
                    heard = heard[-65536:]
                    if any(b'"ask"' in line for line in lines):
                        sent = 0
                while sent is not None and sent < len(self.lines):
                    if not send(port, self.lines[sent]):
                        sent = None
                        break
                    sent += 1
        finally:
            os.close(port)


def send(port: int, line: bytes, patience: float = 5.0) -> bool:
    """Write one line; False when the other side does not take it in `patience` seconds."""
    rest, deadline = line, time.monotonic() + patience
    while rest:
        try:
            rest = rest[os.write(port, rest) :]
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
    return True


def find_port() -> str | None:
    """The device of our virtio-serial port; None before its driver has it."""
    base = "/sys/class/virtio-ports"
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            with open(os.path.join(base, name, "name")) as file:
                if file.read().strip() == PORT:
                    return os.path.join("/dev", name)
    return None


def boot_id() -> str:
    """The kernel's id of this boot: tells a restart of the guest from a repeated report."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def uptime() -> float:
    """Seconds since the kernel started."""
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])


def wait_for_ssh(deadline: float) -> bool:
    """True when sshd greets on this node."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 22), 5) as c:
            if c.recv(4) == b"SSH-":
                return True
        time.sleep(POLL)
    return False


def main() -> None:
    os.makedirs(RUN, mode=0o755, exist_ok=True)
    context = read_seed(time.monotonic() + 60)
    channel = Channel(context["node"], context["token"])
    channel.start()
    at = "identity"
    try:
        apply(context)
        notify("READY=1")
        channel.report("booted")
        at = "growing the root filesystem"
        grow_root()
        public = {k: v for k, v in context.items() if k not in ("token", "files")}
        write(os.path.join(RUN, "context.json"), json.dumps(public, indent=1) + "\n", 0o644)
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
            "PHX_CLUSTER": context["cluster"], "PHX_NODE": context["node"], "PHX_ROLE": context["role"],
            "PHX_ADDRESS": context["nics"][0]["address"].partition("/")[0],
            "PHX_CONTEXT": os.path.join(RUN, "context.json"),
        }  # fmt: skip
        limit = context.get("hook_limit", 300)
        ran = []
        for path in hooks_of(context["role"]):
            at = path
            status, seconds, tail = run_hook(path, {**env, "PHX_HOOK_LIMIT": str(limit)}, limit)
            ran.append([path, status, seconds])
            if status != 0:
                how = f"took longer than {limit} s" if status is None else f"exit {status}"
                channel.report("failed", message=f"hook {path}: {how}", tail=tail, hooks=ran)
                break
        else:
            channel.report("contextualized", hooks=ran)
            at = "sshd"
            if wait_for_ssh(time.monotonic() + 60):
                channel.report("healthy")
            else:
                channel.report("failed", message="sshd does not answer on port 22")
    except Exception as cause:  # whatever it was, our side must hear of it
        notify("READY=1")
        channel.report("failed", message=f"{at}: {type(cause).__name__}: {cause}")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
