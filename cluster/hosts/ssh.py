"""A host over SSH: the ssh_config(5) by which every client reaches it under its name, all over one connection.

FOLDER/ssh_config    its address, its key, who we are there
FOLDER/ssh           a program for those that take one (libvirt): OpenSSH with that file
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlencode

from builder.errors import CommandFailed, EnvironmentLacks, PhiloxeniaError
from builder.run import run
from contextualize.context import word

KEPT = (
    "hostname", "user", "port", "identityfile", "identityagent", "identitiesonly", "certificatefile", "proxyjump",
    "proxycommand", "hostkeyalias", "userknownhostsfile", "globalknownhostsfile", "stricthostkeychecking",
)  # fmt: skip
"""What of a user's own configuration says how a machine is reached and proved; the rest is our own."""


def config(name: str, ways: Iterable[tuple[str, str]], control: Path) -> str:
    """The text. `ways` are keywords and values; `control` is where the socket of the one connection lies."""
    ours = [
        ("ControlMaster", "auto"), ("ControlPath", str(control)), ("ControlPersist", "60"),
        ("ServerAliveInterval", "5"), ("ServerAliveCountMax", "6"), ("LogLevel", "ERROR"), ("BatchMode", "yes"),
    ]  # fmt: skip
    lines = [f"    {word} {value}" for word, value in (*ways, *ours)]
    return "\n".join([f"Host {name}", *lines]) + "\n"


def emulated(name: str, port: int, folder: Path, control: Path) -> str:
    """For a host whose key we made ourselves, behind a port of the loopback."""
    ways = [
        ("HostName", "127.0.0.1"), ("Port", str(port)), ("User", "root"),
        ("IdentityFile", word(folder / "operator_key")), ("IdentitiesOnly", "yes"),
        ("UserKnownHostsFile", word(folder / "known_hosts")), ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"), ("ConnectTimeout", "30"),
    ]  # fmt: skip
    return config(name, ways, control)


def known(port: int, key: str) -> str:
    """The line of known_hosts(5) for a host behind a port of the loopback; `key` is its public key."""
    return f"[127.0.0.1]:{port} {key}\n"


def ways_of(told: str) -> list[tuple[str, str]]:
    """The ways to a machine, from what `ssh -G` says of it.

    >>> ways_of("user root\\nhostname 192.0.2.7\\nport 22\\nidentityfile ~/.ssh/id_rsa\\ncompression no\\n")
    [('user', 'root'), ('hostname', '192.0.2.7'), ('port', '22'), ('identityfile', '~/.ssh/id_rsa')]
    """
    pairs = (line.partition(" ") for line in told.splitlines())
    return [(word, value) for word, _, value in pairs if word in KEPT and value != "none"]


def asked(machine: str, user: str, port: int | None, own: Path | None) -> list[tuple[str, str]]:
    """How the user's own configuration (`own`, else OpenSSH's usual files) reaches a machine."""
    more = ["-F", str(own)] if own else []
    more += ["-l", user] if user else []
    more += ["-p", str(port)] if port else []
    try:
        return ways_of(run(["ssh", "-G", *more, "--", machine], timeout=10).text)
    except CommandFailed as cause:
        raise EnvironmentLacks(f"ssh cannot be told the way to {machine}: {cause.tail}") from cause


def write(folder: Path, text: str) -> Path:
    """ssh_config and the program that uses it; the path of the first."""
    path, program = folder / "ssh_config", folder / "ssh"
    path.write_text(text)
    program.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(path))} "$@"\n')
    program.chmod(0o755)
    return path


def uri(driver: str, name: str, folder: Path) -> str:
    """libvirt's address of a host that `folder` tells the way to. It never asks anything."""
    told = urlencode({"command": str(folder / "ssh"), "no_tty": 1}, safe="/", quote_via=quote)
    return f"{driver}+ssh://{name}/system?{told}"


def hang_up(name: str, folder: Path) -> None:
    """End the one connection, if there is one."""
    if (folder / "ssh_config").exists():
        with contextlib.suppress(PhiloxeniaError):
            argv = ["ssh", "-F", str(folder / "ssh_config"), "-O", "exit", name]
            run(argv, timeout=10, check=False)
