#!/usr/bin/python3
"""The context agent: runs in the guest, reads its seed, becomes the node that the seed describes, and says so.

Run as `agent.py ask KEY=VALUE...` (phx-ask) it asks the agent that runs for another guarantee of this node.

Standard library only, one file (past 300 lines for that reason): it is copied into images and into foreign guests as
it is. In order:

1. find the seed (an ISO 9660 volume called "cidata" that holds philoxenia.json) among the block devices;
2. apply it: host name, addresses, files (hosts, known_hosts, keys); then tell systemd that we are READY, so that
   sshd starts with the right keys; grow the root filesystem to its disk; report *booted*;
3. give the facts that are declared early, and wait for a context that is complete (the seed's may be);
4. write the context's files, run the hooks /etc/philoxenia/hooks.d/*, then /etc/philoxenia/roles/ROLE/*, in the order
   of their names, give the facts; report *contextualized*;
5. probe until all is well; report *healthy*; stay, repeat the reports to whoever asks, take the next contexts.

A later context changes files all together, reloads the units that depend on them, and runs the hooks in
/etc/philoxenia/change.d: those directly in it at every change, those in a folder named for what changed (peers,
role-ROLE, fact-NAME, data-NAME) at that change. When the node is to leave, it runs /etc/philoxenia/leave.d/*.

A hook is an executable file. It gets PHX_EVENT (join, change, leave), PHX_CLUSTER, PHX_NODE, PHX_ROLE, PHX_ADDRESS,
PHX_GENERATION, PHX_CHANGED (what changed, between blanks), PHX_FACT_NAME for each short text fact that is no secret,
PHX_DIR (a folder: hosts, this/*, roles/ROLE, data/NAME, facts/NAME), PHX_CONTEXT (the context as JSON, without
secrets), and PHX_PROVIDE, a folder into which it writes the facts that it gives. It may take PHX_HOOK_LIMIT seconds.
The first that fails stops the node.

The channel is a virtio-serial port, which needs no network, or where the seed says so HTTPS on the private network.
Each report is one line {"body": text, "mac": hex}, the mac being HMAC-SHA256 of the body under the node's token.
Everything that counts is sent again whenever the other side says {"ask": ...}, and when we open a port at whose other
end somebody is: neither a broker that died and came back nor one that outlives an agent misses anything.

What is long and the same on many nodes stands in a document as {"part": SHA-256}. We ask for those that we do not
have from the context in force, and get each as {"part": text}.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import queue
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 50 ms of an emulated boot
    from typing import Any

PORT = "org.philoxenia.context"
SEED = "philoxenia.json"
VERSION = 3
RUN = "/run/philoxenia"
KEPT = "/var/lib/philoxenia/context.json"
HOOKS = "/etc/philoxenia"
ORDER = b"philoxenia to agent\n"
LIMIT = 64 << 20
"""Bytes that a line of the other side may have."""
FACT_LIMIT = 1 << 20
TAIL = 4000
OUTPUT = 16 << 20
"""Bytes of a hook's output that are kept while it runs."""
POLL = 0.1
WRONG = 2.0
"""Seconds that a clock may be off before it is set."""
READ, WRITE, REMOVE = 2, 11, 13
"""What XenStore is asked to do."""
CLOSELY = 0.01
"""Seconds between looks at what takes some hundredths."""
BIND_UNBOUND_PORT = 4 << 16 | ord("E") << 8 | 2
"""ioctl(2) of /dev/xen/evtchn: holds an event channel and answers its number (Linux: include/uapi/xen/evtchn.h)."""
ASKING = 150
"""Seconds that a request waits for its answer: a timer at the host may tick once a minute."""
AGAIN = 2.0
"""Seconds between attempts to reach the broker by HTTPS."""


def say(text: str) -> None:
    """A line for the journal and, through it, the console."""
    with contextlib.suppress(OSError, ValueError):  # a journal that is full stops nobody
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
    """The seed as our side wrote it. RuntimeError when none shows up before `deadline`."""
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


def content(file: dict[str, Any]) -> bytes:
    """The bytes of a file or of a fact's value."""
    return base64.b64decode(file["data"]) if "data" in file else file["text"].encode()


def same(path: str, data: bytes, mode: int) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as old:
        return old.read() == data and os.stat(path).st_mode & 0o7777 == mode
    return False


def owner(text: str) -> tuple[int, int]:
    """Numbers of user[:group]; LookupError when the node has no such user."""
    import grp
    import pwd

    user, _, group = text.partition(":")
    uid = pwd.getpwnam(user).pw_uid
    return uid, grp.getgrnam(group).gr_gid if group else pwd.getpwnam(user).pw_gid


def install(files: list[dict[str, Any]]) -> list[str]:
    """Put files in place, each whole; all are written before the first is renamed. The paths that changed.

    When one cannot be written nothing is changed, nothing is left, and the OSError names its path.
    """
    aside: list[tuple[str, str]] = []
    try:
        for file in files:
            path, data, mode = file["path"], content(file), int(file["mode"], 8)
            if same(path, data, mode):
                continue
            aside.append((path + ".philoxenia", path))
            put_aside(*aside[-1], data, mode, file.get("owner", "root"))
        for new, path in aside:
            os.replace(new, path)
    except BaseException:
        for new, _ in aside:
            with contextlib.suppress(OSError):
                os.unlink(new)
        raise
    return [path for _, path in aside]


def put_aside(new: str, path: str, data: bytes, mode: int, owned: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            os.fchmod(out.fileno(), mode)
            if owned != "root":
                os.fchown(out.fileno(), *owner(owned))
            out.write(data)
    except OSError as cause:  # one of write(2) names no path
        raise OSError(cause.errno, cause.strerror, path) from cause


def write(path: str, text: str, mode: int) -> None:
    """Put one file in place whole, with its mode, unless it is there already."""
    install([{"path": path, "text": text, "mode": f"{mode:o}"}])


def links(nics: list[dict[str, Any]], devices: dict[str, str]) -> list[str]:
    """What `ip -batch` is to do for any number of NICs. RuntimeError naming one that has no device.

    devices  MAC -> name of the device
    """
    lines = ["link set lo up"]
    for nic in nics:
        device = devices.get(nic["mac"])
        if device is None:
            raise RuntimeError(f"no network device with MAC {nic['mac']}; seen: {sorted(devices)}")
        lines += [f"addr replace {nic['address']} dev {device}", f"link set {device} up"]
        if nic.get("gateway"):
            lines.append(f"route replace default via {nic['gateway']} dev {device}")
    return lines


def identify(seed: dict[str, Any]) -> None:
    """Host name and addresses. Raises OSError, RuntimeError or CalledProcessError, naming what it was at."""
    socket.sethostname(seed["node"])
    devices = {}
    for name in os.listdir("/sys/class/net"):
        with contextlib.suppress(OSError), open(f"/sys/class/net/{name}/address") as file:
            devices[file.read().strip()] = name
    lines = links(seed["nics"], devices)
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    put("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")


def grow_root() -> None:
    """Let an ext root filesystem fill its disk, or where root is read only the one that takes its changes; first its
    partition, when that is the last of its disk. What is full already costs one look.
    """
    with open("/proc/mounts") as file:
        mounts = {words[1]: (words[0], words[2]) for words in map(str.split, file)}
    point = "/" if mounts["/"][1] != "overlay" else "/run/overlay/changes"
    device, kind = mounts.get(point, ("", ""))
    at = f"/sys/class/block/{os.path.basename(device)}"
    if not (device.startswith("/dev/") and kind.startswith("ext") and os.path.exists(at)):
        return
    if os.path.exists(f"{at}/partition") and shutil.which("sfdisk"):
        top = os.path.dirname(os.path.realpath(at))
        start = sectors(f"{at}/start")
        last = all(
            sectors(f"{top}/{n}/start") <= start
            for n in os.listdir(top)
            if os.path.exists(f"{top}/{n}/start")
        )
        behind = sectors(f"{top}/size") - start - sectors(f"{at}/size")
        if last and behind > 4096:  # more than the copy of the table
            number, name = str(sectors(f"{at}/partition")), f"/dev/{os.path.basename(top)}"
            quiet("sfdisk", "--no-reread", "--no-tell-kernel", "-N", number, name, text=", +\n")
            quiet("partx", "--update", "--nr", number, name)
    root = os.statvfs(point)
    if root.f_blocks * root.f_frsize < sectors(f"{at}/size") * 512 * 0.9:
        quiet("resize2fs", device)


def sectors(path: str) -> int:
    """The number that a file of sysfs holds."""
    with open(path) as file:
        return int(file.read())


def quiet(*argv: str, text: str = "") -> None:
    """Run a program whose words nobody reads."""
    subprocess.run(
        argv,
        input=text,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3)); silent when systemd did not start us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect("\0" + address[1:] if address[0] == "@" else address)
            out.send(text.encode())


# --- hooks and facts ----------------------------------------------------------------------------


def executables(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    paths = [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if not n.startswith(".")]
    return [p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)]


def hooks_of(role: str, base: str = HOOKS) -> list[str]:
    """Paths of the executables to run when the node joins, in order."""
    return executables(os.path.join(base, "hooks.d")) + executables(
        os.path.join(base, "roles", role)
    )


def change_hooks(words: list[str], base: str = HOOKS) -> list[str]:
    """Those to run after a change: of every change, then of what changed."""
    top = os.path.join(base, "change.d")
    found = executables(top)
    for word in words:
        if not word.startswith("file:"):
            found += executables(os.path.join(top, word.replace(":", "-")))
    return found


def changes(old: dict[str, Any], new: dict[str, Any], files: list[str]) -> list[str]:
    """What is another: peers, role:ROLE, fact:NAME, data:NAME, file:PATH."""
    words = []
    if old["peers"] != new["peers"]:
        words.append("peers")
        was, now = ({(p["role"], p["name"], p["address"]) for p in d["peers"]} for d in (old, new))
        words += sorted({f"role:{role}" for role, _, _ in was ^ now})
    for kind, key in (("fact", "facts"), ("data", "data")):
        names = sorted(old[key].keys() | new[key].keys())
        words += [f"{kind}:{n}" for n in names if old[key].get(n) != new[key].get(n)]
    return words + [f"file:{path}" for path in files]


def lay_out(seed: dict[str, Any], document: dict[str, Any], folder: str) -> None:
    """The context as files for hooks; the folder appears whole."""
    new, old = folder + ".new", folder + ".old"
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    cluster = seed["cluster"]
    lines = [
        (p["role"], f"{p['address']} {p['name']}.{cluster} {p['name']}\n")
        for p in document["peers"]
    ]
    texts = {"hosts": "".join(line for _, line in lines).encode()}
    for role in {role for role, _ in lines}:
        texts[f"roles/{role}"] = "".join(line for of, line in lines if of == role).encode()
    address = seed["nics"][0]["address"].partition("/")[0]
    mine = {"name": seed["node"], "short": seed["node"], "full": f"{seed['node']}.{cluster}",
            "role": seed["role"], "address": address, "cluster": cluster}  # fmt: skip
    texts |= {f"this/{name}": f"{text}\n".encode() for name, text in mine.items()}
    texts |= {f"data/{name}": text.encode() for name, text in document["data"].items()}
    for name, fact in document["facts"].items():
        for node, value in fact["values"].items():
            texts[f"facts/{name}" if fact["one"] else f"facts/{name}/{node}"] = content(value)
    for name, data in texts.items():
        path = os.path.join(new, name)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        mode = 0o600 if name.startswith("facts/") else 0o644
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(data)
    if os.path.isdir(folder):
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def until(true: Any, limit: float, every: float = 0.3) -> bool:
    """Whether `true` came to hold within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 5):
        return True
    return False


def succeeds(command: str, env: dict[str, str], limit: float) -> bool:
    return run(["sh", "-c", command], env, limit, subprocess.DEVNULL) == 0


def run(
    argv: list[str], env: dict[str, str], limit: float, out: Any, err: Any = None
) -> int | None:
    """Exit status; None when the limit passed, and then its children are gone with it. What it writes to a file is cut
    when it is too much, so that a hook without an end fills no disk.
    """
    deadline = time.monotonic() + limit
    process = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out if err is None else err,
        start_new_session=True,
    )  # fmt: skip
    running(process.pid)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                left = deadline - time.monotonic()
                # Output is looked at now and then; who has none to look at is waited for at once.
                return process.wait(left if out == subprocess.DEVNULL else min(0.5, max(0, left)))
            if time.monotonic() >= deadline:
                end_group(process.pid)
                process.wait()
                return None
            if out == subprocess.DEVNULL or os.fstat(out.fileno()).st_size <= OUTPUT:
                continue
            if err is not None:  # it is no hook that talks, but a value without an end
                end_group(process.pid)
            else:
                tail = os.pread(out.fileno(), TAIL, os.fstat(out.fileno()).st_size - TAIL)
                os.ftruncate(out.fileno(), 0)
                os.write(out.fileno(), tail)
    finally:
        running(0)


def end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 9)


def running(pid: int) -> None:
    """Remember the process that works for us, 0 for none: an agent that was killed in the meantime is followed by one
    that ends it, and begins anew.
    """
    path = os.path.join(RUN, "running")
    with contextlib.suppress(OSError):
        if pid:
            with open(path, "w") as file:
                file.write(f"{pid} {started(pid)}")
        else:
            os.unlink(path)


def started(pid: int) -> str:
    """When the process started, in the kernel's ticks: with its number, that is which process it is."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]


def end_what_runs() -> None:
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(RUN, "running")) as file:
            pid, since = file.read().split()
        if started(int(pid)) == since:
            end_group(int(pid))
        running(0)


def run_hook(argv: list[str], env: dict[str, str], limit: float) -> tuple[int | None, float, str]:
    """(exit status, seconds, end of its output); status None when the limit passed."""
    begun = time.monotonic()
    # Output goes to a file: a daemon that the hook starts would hold a pipe open for ever.
    log = os.path.join(RUN, "-".join(["hook", *argv[0].split("/")[-2:]]) + ".log")
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    with open(os.open(log, flags, 0o600), "r+b", buffering=0) as out:
        status = run(argv, env, limit, out)
        size = os.fstat(out.fileno()).st_size
        tail = os.pread(out.fileno(), TAIL, max(0, size - TAIL)).decode(errors="replace")
    return status, round(time.monotonic() - begun, 2), tail


# --- reporting ----------------------------------------------------------------------------------


class Port:
    """The guest's end of a virtio-serial channel, or of Xen's: that one is a terminal, whose manners are taken off."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.terminal = os.isatty(fd)
        if self.terminal:
            tty.setraw(fd)

    def fileno(self) -> int:
        return self.fd

    def read(self) -> bytes:
        """What there is, b"" when there is nothing."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fd, 65536)
        return b""

    def write(self, data: bytes) -> int:
        """How much was taken; BlockingIOError when nothing is."""
        return os.write(self.fd, data)

    def close(self) -> None:
        os.close(self.fd)


class Secure:
    """A channel by HTTPS: the same lines, after an upgrade (RFC 9110, 7.8). The other side proves itself with the
    certificate whose SHA-256 the seed pins, we by a mac under our token over that pin.
    """

    def __init__(self, node: str, token: bytes, told: dict[str, Any]) -> None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin decides
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        raw = socket.create_connection((told["address"], told["port"]), 10)
        try:
            # Our request follows the handshake at once; nobody waits for an acknowledgement in between.
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = context.wrap_socket(raw)
            seen = hashlib.sha256(self.socket.getpeercert(True) or b"").hexdigest()
            if not hmac.compare_digest(seen, told["pin"]):
                raise OSError("the broker's certificate is not the pinned one")
            mac = hmac.new(
                token, f"philoxenia channel\n{node}\n{seen[:32]}".encode(), hashlib.sha256
            )
            self.socket.sendall(
                f"GET /{node} HTTP/1.1\r\nHost: {told['address']}\r\nConnection: Upgrade\r\n"
                f"Upgrade: philoxenia\r\nAuthorization: Philoxenia {mac.hexdigest()}\r\n\r\n".encode()
            )
            head = b""
            while not head.endswith(b"\r\n\r\n") and len(head) < 4096:
                more = self.socket.recv(1)
                if not more:
                    break
                head += more
            if not head.startswith(b"HTTP/1.1 101 "):
                raise OSError(f"the broker answered {head[:60]!r}")
            self.socket.setblocking(False)
        except BaseException:
            raw.close()
            raise
        self.wanted = (ssl.SSLWantReadError, ssl.SSLWantWriteError)

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> bytes:
        found = b""
        try:
            while True:  # TLS may hold more than the socket shows
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionResetError("the broker closed the channel")
                found += data
        except self.wanted:
            return found

    def write(self, data: bytes) -> int:
        try:
            return self.socket.send(data)
        except self.wanted:
            raise BlockingIOError from None

    def close(self) -> None:
        self.socket.close()


class Channel(threading.Thread):
    """Keeps the reports that count and sends them, all again after each {"ask"}, the new ones as they come; puts what
    the other side tells into `orders`.
    """

    def __init__(
        self, node: str, token: str, path: str | None = None, https: dict[str, Any] | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.node, self.token, self.path, self.https = node, token.encode(), path, https
        self.boot = boot_id()
        # An agent that was started again in the same boot goes on counting where no report was before.
        self.count = int(uptime() * 100)
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self.held: dict[str, Any] = {}
        self.coming: dict[str, Any] | None = None
        self.lacking: set[str] = set()
        self.got: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.answered = threading.Condition()
        self.lock = threading.Lock()
        self.wake_read, self.wake_write = os.pipe()

    def report(self, stage: str, **facts: Any) -> None:
        """Say a stage: booted, or where the node is since (contextualized, healthy, failed, left)."""
        self._keep("booted" if stage == "booted" else "state", {"stage": stage, **facts})
        said = f": {facts['message']}" if "message" in facts else ""
        say(f"philoxenia: {self.node} {stage}{said}")

    def give(self, name: str, value: bytes | None) -> None:
        """Say a fact; None for a readiness."""
        packed = None if value is None else base64.b64encode(value).decode()
        self._keep(f"fact {name}", {"fact": name, "value": packed})
        say(f"philoxenia: {self.node} gives {name}")

    def ask(self, words: list[str], limit: float, gone: Any = lambda: False) -> dict[str, Any]:
        """Ask for another guarantee; {"granted", "said", "heard"}. It is withdrawn without an answer in `limit`
        seconds, and when `gone` tells that nobody waits for one any more.
        """
        name = os.urandom(8).hex()
        deadline = time.monotonic() + limit
        self._keep("request", {"request": name, "words": words})
        with self.answered:
            while self.answer.get("answer") != name and time.monotonic() < deadline and not gone():
                self.answered.wait(max(0.0, min(1.0, deadline - time.monotonic())))
            told = self.answer if self.answer.get("answer") == name else None
        # Without words it is over: the other side need not tell it again.
        self._keep("request", {"request": name, "words": []})
        if told is None:
            said = f"nobody at the host answered within {limit:g} s: phx tick answers there"
            return {"granted": False, "said": said, "heard": False}
        return {"granted": told["granted"] is True, "said": str(told["said"]), "heard": True}

    def hold(self, document: dict[str, Any]) -> None:
        """Remember the long values of the context in force: they need not be told again."""
        values = [document["peers"], document["facts"]]
        values += [f[k] for f in document["files"] for k in ("text", "data") if k in f]
        self.held = {part_of(v): v for v in values}

    def _keep(self, key: str, told: dict[str, Any]) -> None:
        with self.lock:
            self.count += 1
            body = json.dumps(
                {
                    "node": self.node,
                    "boot": self.boot,
                    "seq": self.count,
                    "uptime": uptime(),
                    **told,
                }
            )
            mac = hmac.new(self.token, body.encode(), hashlib.sha256).hexdigest()
            self.kept[key] = self.count, json.dumps({"body": body, "mac": mac}).encode() + b"\n"
        os.write(self.wake_write, b".")

    def run(self) -> None:
        while True:
            try:
                port = self.open()
                if port:
                    self.converse(port)
            except Exception as cause:  # whatever it was, a node without a channel is lost
                # Nobody listens most of the time: no news.
                if not isinstance(cause, (ConnectionRefusedError, ConnectionResetError)):
                    say(f"philoxenia: channel: {type(cause).__name__}: {cause}")
            time.sleep(POLL if self.https is None else AGAIN)

    def open(self) -> Port | Secure | None:
        if self.https is not None:
            return Secure(self.node, self.token, self.https)
        path = self.path or find_port()
        return Port(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)) if path else None

    def converse(self, port: Port | Secure) -> None:
        """Until the port fails. `sent` is None while nobody has asked."""
        heard = bytearray()
        watch = select.poll()
        watch.register(port.fileno(), select.POLLIN)
        there = not any(e & (select.POLLHUP | select.POLLERR) for _, e in watch.poll(0))
        watch.register(self.wake_read, select.POLLIN)
        # Whoever is there already asked somebody before us. By HTTPS each channel begins with a question.
        sent: int | None = 0 if there and isinstance(port, Port) else None
        try:
            while True:
                events = dict(watch.poll())
                if events.get(self.wake_read):
                    os.read(self.wake_read, 4096)
                here = events.get(port.fileno(), 0)
                if here & (select.POLLHUP | select.POLLERR):
                    if isinstance(port, Secure) or port.terminal:
                        return  # a terminal is hung up for ever: after a restore there is another
                    sent = None  # nobody is at the other end
                    heard.clear()
                    time.sleep(POLL)
                elif here:
                    data = port.read()
                    heard += data
                    if b"\n" in data:
                        *lines, rest = bytes(heard).split(b"\n")
                        heard = bytearray(rest)
                        asked = [self.hear(line) for line in lines]
                        sent = 0 if any(asked) else sent
                    elif len(heard) > LIMIT:
                        heard.clear()
                while sent is not None:
                    with self.lock:
                        due = sorted(k for k in self.kept.values() if k[0] > sent)
                    if not due:
                        break
                    sent = due[0][0] if send(port, due[0][1]) else None
        finally:
            port.close()

    def hear(self, line: bytes) -> bool:
        """Whether the line asks for the reports; an order with our token's mac is put into `orders`."""
        try:
            told = json.loads(line)
            if "ask" in told:
                return True
            if "part" in told:
                self.obtain(told["part"])
                return False
            body = told["body"].encode()
            right = hmac.new(self.token, ORDER + body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(right, told["mac"]):
                self.take(json.loads(body))
            else:
                say("philoxenia: channel: a line with a wrong mac")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if line.strip():
                say("philoxenia: channel: a line that says nothing")
        return False

    def take(self, told: dict[str, Any]) -> None:
        """Put an order into `orders`; a context whose parts are not all here waits for them."""
        if "answer" in told:
            with self.answered:
                self.answer = told
                self.answered.notify_all()
            return
        if "context" not in told:
            self.orders.put(told)
            return
        self.coming, self.got = told["context"], {}
        self.lacking = parts_of(told["context"]) - self.held.keys()
        self.complete()

    def obtain(self, text: str) -> None:
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest in self.lacking:
            self.lacking.discard(digest)
            self.got[digest] = text
            self.complete()

    def complete(self) -> None:
        """Hand on the context that is coming, or ask for what it lacks."""
        if self.coming is None:
            return
        if self.lacking:
            if not self.got:
                self._keep("want", {"want": sorted(self.lacking)})
            return
        coming, self.coming = self.coming, None
        with self.lock:
            self.kept.pop("want", None)
        self.orders.put({"context": whole(coming, {**self.held, **self.got})})
        self.got = {}


class Desk(threading.Thread):
    """Where programs of this node ask for another guarantee: a JSON list of KEY=VALUE is answered by one line."""

    def __init__(self, channel: Channel, folder: str = "", limit: float = ASKING) -> None:
        """The socket is in a folder of its own that root alone may enter. OSError when there can be none."""
        super().__init__(daemon=True)
        folder = folder or os.path.join(RUN, "desk")
        self.channel, self.limit = channel, limit
        self.busy = threading.Lock()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, "socket")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(path)
        self.door.listen(4)

    def run(self) -> None:
        while True:
            comer, _ = self.door.accept()
            threading.Thread(target=self.serve, args=(comer,), daemon=True).start()

    def serve(self, comer: socket.socket) -> None:
        with comer, contextlib.suppress(OSError, ValueError):
            comer.settimeout(5)
            with comer.makefile("rb") as file:
                words = json.loads(file.readline(4096))
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise ValueError
            if self.busy.acquire(blocking=False):
                try:
                    told = self.channel.ask(words, self.limit, lambda: hung_up(comer))
                finally:
                    self.busy.release()
            else:
                said = "another request of this node waits for its answer"
                told = {"granted": False, "said": said, "heard": False}
            comer.sendall(json.dumps(told).encode() + b"\n")


def hung_up(comer: socket.socket) -> bool:
    look = select.poll()
    look.register(comer, select.POLLHUP)
    return bool(look.poll(0))


def ask(words: list[str], folder: str = "") -> int:
    """Ask the agent of this node and print what came of it: 0 granted, 1 refused, 3 nobody answered."""
    if not words or not all("=" in word for word in words):
        say("usage: phx-ask KEY=VALUE..., as in phx-ask cpu.limit=0.6")
        return 2
    try:
        with socket.socket(socket.AF_UNIX) as desk:
            desk.settimeout(ASKING + 10)
            desk.connect(os.path.join(folder or os.path.join(RUN, "desk"), "socket"))
            desk.sendall(json.dumps(words).encode() + b"\n")
            with desk.makefile("rb") as file:
                told = json.loads(file.readline())
    except (OSError, ValueError) as cause:
        say(f"phx-ask: the agent does not answer: {cause}")
        return 3
    if told["granted"]:
        print(told["said"])
        return 0
    say(f"phx-ask: {told['said']}")
    return 1 if told["heard"] else 3


def stands(value: Any) -> str:
    """The digest of the part that the value stands for, or ""."""
    if isinstance(value, dict) and value.keys() == {"part"} and isinstance(value["part"], str):
        return value["part"]
    return ""


def part_of(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parts_of(document: dict[str, Any]) -> set[str]:
    """Digests of the parts that stand in a document as it comes over the channel."""
    values = [document["peers"], document["facts"]]
    values += [v for f in document["files"] for v in f.values()]
    return {stands(v) for v in values} - {""}


def whole(document: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The document with every part in its place. What is no file's content is JSON."""

    def full(value: Any, plain: bool) -> Any:
        digest = stands(value)
        if not digest:
            return value
        found = parts[digest]
        return json.loads(found) if isinstance(found, str) and not plain else found

    files = [{k: full(v, True) for k, v in f.items()} for f in document["files"]]
    peers, facts = (full(document[key], False) for key in ("peers", "facts"))
    return {**document, "peers": peers, "facts": facts, "files": files}


def send(port: Port | Secure, line: bytes, patience: float = 5.0) -> bool:
    """Write one line; False when the other side does not take it in `patience` seconds."""
    rest, deadline = line, time.monotonic() + patience
    room = select.poll()
    room.register(port.fileno(), select.POLLOUT)
    while rest:
        try:
            rest = rest[port.write(rest) :]
            continue
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        # A terminal takes 256 bytes at a time, and soon has room again; an end without another never has.
        if any(e & (select.POLLHUP | select.POLLERR) for _, e in room.poll(POLL * 1000)):
            time.sleep(POLL)
    return True


def find_port() -> str | None:
    """The device of our virtio-serial port, or of our Xen console; None before its driver has it."""
    base = "/sys/class/virtio-ports"
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            with open(os.path.join(base, name, "name")) as file:
                if file.read().strip() == PORT:
                    return os.path.join("/dev", name)
    with contextlib.suppress(OSError):
        for name in os.listdir("/sys/bus/xen/devices"):
            kind, _, number = name.partition("-")
            if kind == "console" and xenstore(f"device/console/{number}/name") == PORT:
                come_last(number)
                return f"/dev/hvc{number}"
    return None


def come_last(number: str) -> None:
    """Give our Xen console an event channel behind those of the disks, so that the machine can be saved and restored.

    Restored, its kernel connects disks before consoles, each by the first event channel that is free, and the console
    then closes the number that it had before (Linux 6.1: hvc_xen.c, xencons_resume). Bound at boot before the disks, it
    had the number that the first disk has now: no program in the guest would ever read from it again.
    """
    own, folder = f"device/console/{number}", "/sys/bus/xen/drivers/xenconsole"
    highest = 0
    for name in os.listdir("/sys/bus/xen/devices"):
        with contextlib.suppress(OSError):  # it is no disk, or is not connected
            highest = max(highest, int(xenstore(f"device/{name.replace('-', '/')}/event-channel")))
    if int(xenstore(f"{own}/port")) > highest:
        return
    theirs = xenstore(f"{own}/backend") + "/state"
    try:
        if not os.path.exists("/dev/xen/evtchn"):
            quiet("modprobe", "xen-evtchn")
        held = os.open("/dev/xen/evtchn", os.O_RDWR)
        # Whoever binds next has the first number that is free: all up to the disks' are held meanwhile.
        while fcntl.ioctl(held, BIND_UNBOUND_PORT, bytearray(4)) <= highest:
            pass
    except (OSError, subprocess.CalledProcessError) as cause:
        say(f"philoxenia: restored from a disk this node would not go on: {cause}")
        return
    # The states of XenBus: 5 is closing, 6 closed, 1 initialising, 2 waits for the other (io/xenbus.h of Xen's).
    with open(held, "rb", buffering=0):
        # QEMU lets go of the page that it shares with us before the driver gives it back to the kernel.
        xenstore(f"{own}/state", WRITE, "5")
        if not until(lambda: xenstore(theirs) == "6", 9, CLOSELY):
            say(
                "philoxenia: restored from a disk this node would not go on: its console does not close"
            )
            return
        put(f"{folder}/unbind", f"console-{number}")
        try:
            fcntl.ioctl(held, BIND_UNBOUND_PORT, bytearray(4))  # what it had itself
            # QEMU waits for no state of ours, but connects as soon as these two are there: the old ones must not be.
            for key in ("ring-ref", "port"):
                xenstore(f"{own}/{key}", REMOVE)
            xenstore(f"{own}/state", WRITE, "1")
            until(lambda: xenstore(theirs) == "2", 9, CLOSELY)
        finally:
            put(f"{folder}/bind", f"console-{number}")


def put(path: str, text: str) -> None:
    """Tell a file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)


def xenstore(path: str, act: int = READ, value: str = "") -> str:
    """What XenStore says at a path of this guest's own, or what it says to an act there. OSError if it does not do it.

    A request and its answer each are a head of four numbers (act, request, transaction, length) and a body; the act of
    an answer is 16 when it is an error (Xen: docs/misc/xenstore.txt, xen/include/public/io/xs_wire.h).
    """
    body = path.encode() + b"\0" + value.encode()
    store = os.open("/dev/xen/xenbus", os.O_RDWR)
    try:
        os.write(store, struct.pack("=4I", act, 0, 0, len(body)) + body)
        answer = b""
        while len(answer) < 16 or len(answer) < 16 + struct.unpack_from("=4I", answer)[3]:
            answer += os.read(store, 4096)
    finally:
        os.close(store)
    if struct.unpack_from("=4I", answer)[0] != act:
        raise OSError(f"XenStore has no {path}")
    return answer[16:].decode(errors="replace")


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


# --- the node -----------------------------------------------------------------------------------


class Failed(Exception):
    """A step of the node's way that did not succeed: what, and the end of what it said."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.message, self.tail = message, tail


class Node:
    """This node on its way: which context is in force, and what it takes to get to the next."""

    def __init__(self, seed: dict[str, Any], channel: Channel) -> None:
        self.seed, self.channel = seed, channel
        self.limit = seed.get("hook_limit", 300)
        self.address = seed["nics"][0]["address"].partition("/")[0]
        self.document: dict[str, Any] = self.newest()
        channel.hold(self.document)
        self.joined = False
        self.given: set[str] = set()
        self.ran: list[Any] = []
        self.left = False

    def newest(self) -> dict[str, Any]:
        """The context that was last in force on this disk, else the seed's."""
        given: dict[str, Any] = self.seed["context"]
        with contextlib.suppress(OSError, ValueError, KeyError), open(KEPT) as file:
            kept = json.load(file)
            same_node = (
                kept["node"] == self.seed["node"] and kept["cluster"] == self.seed["cluster"]
            )
            if same_node and kept["context"]["generation"] >= given["generation"]:
                return kept["context"]  # type: ignore[no-any-return]
        return given

    def boot(self) -> None:
        end_what_runs()
        identify(self.seed)
        install(self.document["files"])
        notify("READY=1")
        self.channel.report("booted")
        grow_root()
        for name in ("provide", "context"):
            os.makedirs(
                os.path.join(RUN, name), mode=0o700 if name == "provide" else 0o755, exist_ok=True
            )
        self.provide(early=True)

    def env(self, event: str, words: list[str]) -> dict[str, str]:
        found = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
            "PHX_EVENT": event, "PHX_CLUSTER": self.seed["cluster"], "PHX_NODE": self.seed["node"],
            "PHX_ROLE": self.seed["role"], "PHX_ADDRESS": self.address,
            "PHX_GENERATION": str(self.document["generation"]), "PHX_CHANGED": " ".join(words),
            "PHX_CONTEXT": os.path.join(RUN, "context.json"), "PHX_DIR": os.path.join(RUN, "context"),
            "PHX_PROVIDE": os.path.join(RUN, "provide"), "PHX_HOOK_LIMIT": str(self.limit),
        }  # fmt: skip
        for name, fact in self.document["facts"].items():
            for value in fact["values"].values() if fact["one"] and not fact["secret"] else ():
                if len(value.get("text", "")) <= 4096 and "\0" not in value.get("text", "\0"):
                    found["PHX_FACT_" + name.upper()] = value["text"].rstrip("\n")
        return found

    def take(self, document: dict[str, Any]) -> None:
        """Bring a complete context into force. Raises Failed, OSError and their like."""
        old, self.document = self.document, document
        self.channel.hold(document)
        written = install(document["files"])
        lay_out(self.seed, document, os.path.join(RUN, "context"))
        public = {k: v for k, v in self.seed.items() if k not in ("token", "context")}
        told = {k: v for k, v in document.items() if k not in ("files", "facts")}
        write(
            os.path.join(RUN, "context.json"),
            json.dumps({**public, **told}, indent=1) + "\n",
            0o644,
        )
        kept = {"node": self.seed["node"], "cluster": self.seed["cluster"], "context": document}
        write(KEPT, json.dumps(kept), 0o600)
        gone = {f["path"] for f in old["files"]} - {f["path"] for f in document["files"]}
        for path in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self.ran = []
        units = [u for f in document["files"] if f["path"] in written for u in f.get("reload", ())]
        if units:
            self.run_all(
                [["systemctl", "try-reload-or-restart", *dict.fromkeys(units)]],
                self.env("join", []),
            )
        if self.joined:
            words = changes(old, document, written)
            self.run_all([[h] for h in change_hooks(words)], self.env("change", words))
        else:
            self.run_all([[h] for h in hooks_of(self.seed["role"])], self.env("join", []))
        self.joined = True
        self.channel.report("contextualized", hooks=self.ran, context=document["digest"])
        self.provide(early=False)
        self.probe()
        self.channel.report("healthy", hooks=self.ran, context=document["digest"])

    def run_all(self, commands: list[list[str]], env: dict[str, str]) -> None:
        for argv in commands:
            status, seconds, tail = run_hook(argv, env, self.limit)
            name = " ".join(argv)
            self.ran.append([name, status, seconds])
            if status != 0:
                how = f"took longer than {self.limit} s" if status is None else f"exit {status}"
                raise Failed(f"hook {name}: {how}", tail)

    def provide(self, early: bool) -> None:
        """Give the facts of this moment, values before readiness. Each is given once in a boot."""
        due = [
            p for p in self.document["provides"]
            if p["early"] == early and p["name"] not in self.given
        ]  # fmt: skip
        env = self.env("join", [])
        for p in sorted(due, key=lambda p: p["how"] in ("tcp", "probe")):
            value = self.before(p["name"])
            if value is None:
                value = self.value(p, env)
                if value is not None:
                    keep = {"data": base64.b64encode(value).decode(), "mode": "0600"}
                    install([{"path": os.path.join(RUN, "given", p["name"]), **keep}])
            self.channel.give(p["name"], value)
            self.given.add(p["name"])

    def before(self, name: str) -> bytes | None:
        """What an agent of this boot before us gave: a fact is the same until the next boot."""
        with contextlib.suppress(OSError), open(os.path.join(RUN, "given", name), "rb") as file:
            return file.read()
        return None

    def value(self, p: dict[str, Any], env: dict[str, str]) -> bytes | None:
        name, how, what = p["name"], p["how"], p["what"]
        if how == "tcp":
            if not until(lambda: answers(self.address, int(what)), self.limit):
                raise Failed(
                    f"{name} is not ready: port {what} did not answer within {self.limit} s"
                )
            return None
        if how == "probe":
            if not until(lambda: succeeds(what, env, self.limit), self.limit):
                raise Failed(f"{name} is not ready: '{what}' did not succeed within {self.limit} s")
            return None
        if how == "command":
            data = self.output(name, what, env)
        else:
            path = what if how == "file" else os.path.join(RUN, "provide", name)
            if how == "hook" and not os.path.exists(path):
                raise Failed(f"no hook wrote the fact {name} into $PHX_PROVIDE")
            with open(path, "rb") as file:
                data = file.read(FACT_LIMIT + 1)
        if len(data) > FACT_LIMIT:
            raise Failed(f"the fact {name} has more than {FACT_LIMIT} bytes")
        return data

    def output(self, name: str, command: str, env: dict[str, str]) -> bytes:
        import tempfile

        # Files, not pipes: a daemon that the command leaves would hold a pipe open for ever.
        with tempfile.TemporaryFile(dir=RUN) as out, tempfile.TemporaryFile(dir=RUN) as err:
            status = run(["sh", "-c", command], env, self.limit, out, err)
            if status != 0 and os.fstat(out.fileno()).st_size <= FACT_LIMIT:
                how = f"took longer than {self.limit} s" if status is None else f"exit {status}"
                size = os.fstat(err.fileno()).st_size
                tail = os.pread(err.fileno(), TAIL, max(0, size - TAIL)).decode(errors="replace")
                raise Failed(f"the command of the fact {name}: {how}", tail)
            return os.pread(out.fileno(), FACT_LIMIT + 1, 0)

    def probe(self) -> None:
        if not wait_for_ssh(time.monotonic() + 120):
            raise Failed("sshd did not greet within 120 s")
        env = self.env("probe", [])
        for kind, what in self.document["healthy"]:

            def holds(kind: str = kind, what: Any = what) -> bool:
                if kind == "tcp":
                    return answers(self.address, int(what))
                return succeeds(what, env, self.limit)

            if until(holds, 2):
                continue
            # It may take long: whoever waits is to know for what.
            self.channel.report(
                "contextualized", hooks=self.ran, context=self.document["digest"],
                message=f"waits until it is healthy: {kind} {what}",
            )  # fmt: skip
            if not until(holds, self.limit):
                raise Failed(f"not healthy: {kind} {what} did not hold within {self.limit} s")

    def leave(self) -> None:
        """Run the hooks of leaving once, and say so. The node goes on until it is taken away."""
        if self.left:
            return
        self.left, self.ran = True, []
        try:
            self.run_all(
                [[h] for h in executables(os.path.join(HOOKS, "leave.d"))], self.env("leave", [])
            )
            self.channel.report("left", hooks=self.ran)
        except Failed as cause:
            self.channel.report("left", hooks=self.ran, message=cause.message, tail=cause.tail)

    def attempt(self, document: dict[str, Any]) -> None:
        """`take`, with every failure reported. A node that failed joins anew with its next context."""
        try:
            self.take(document)
            return
        except Failed as cause:
            self.failed(cause.message, cause.tail)
        except Exception as cause:  # whatever it was, our side must hear of it
            self.failed(f"{type(cause).__name__}: {cause}")
        self.joined = False

    def failed(self, message: str, tail: str = "") -> None:
        self.channel.report(
            "failed",
            message=message,
            tail=tail,
            hooks=self.ran,
            context=self.document.get("digest", ""),
        )

    def start(self) -> bool:
        """`boot`, with every failure reported; whether it succeeded."""
        try:
            self.boot()
        except Failed as cause:
            self.failed(cause.message, cause.tail)
        except Exception as cause:  # whatever it was, our side must hear of it
            self.failed(f"{type(cause).__name__}: {cause}")
        else:
            return True
        notify("READY=1")  # sshd may start, so that somebody can look
        return False

    def serve(self) -> None:
        """Take what the other side tells, for as long as the node lives."""
        well = self.start()
        if well and self.document["complete"]:
            self.attempt(self.document)
        while True:
            told = self.channel.orders.get()
            if "leave" in told:  # also a node that is not well may have to say goodbye
                self.leave()
                continue
            if "clock" in told:
                set_clock(told["clock"])
                continue
            if not well:
                well = self.start()
            if not well:
                continue
            if "context" in told:
                # Told again what is in force already: nothing to do.
                if not self.joined or told["context"]["digest"] != self.document.get("digest"):
                    self.attempt(told["context"])
            elif "again" in told:
                self.joined = False
                if self.document["complete"]:
                    self.attempt(self.document)


def set_clock(now: float) -> None:
    """The machine stood still, and the kernel does not know for how long. One that runs right is left alone."""
    if abs(time.time() - now) > WRONG:
        with contextlib.suppress(OSError):  # a container may not
            time.clock_settime(time.CLOCK_REALTIME, now)


def main() -> None:
    os.umask(0o022)
    os.makedirs(RUN, mode=0o755, exist_ok=True)
    # A machine of nobody's cluster grows too; a node tries again where it can report what failed.
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        grow_root()
    seed = read_seed(time.monotonic() + 60)
    if seed.get("version") != VERSION:
        raise SystemExit(
            f"philoxenia: the seed is of version {seed.get('version')}, this agent reads {VERSION}"
        )
    channel = Channel(seed["node"], seed["token"], https=seed.get("https"))
    channel.start()
    try:
        Desk(channel).start()
    except OSError as cause:  # whoever cannot ask is a node all the same
        say(f"philoxenia: nothing can be asked for here: {cause}")
    Node(seed, channel).serve()


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        raise SystemExit(ask(sys.argv[2:]))
    main()
