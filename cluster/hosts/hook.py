#!/usr/bin/python3 -ISB
"""What libvirt runs in dom0 when a domain starts (hooks/libxl): holds it to what its metadata promises.

Xen forgets a cap and the rate of a network device with each domain, and a guest that reboots, is restored, or is
started by whoever it may be, is another domain; a dom0 that was booted anew has neither the guard's rules nor the
folder of a guest's channel. So all that is set here, where every start comes by, from the mark in its definition and
from what phx left beside its disk; `phx` sets it too, and reads it back. Runs alone, standard library only, asks
libvirt nothing (a hook must not: https://libvirt.org/hooks.html).

Whose frames cannot be kept to its own addresses does not start. For a limit that cannot be set no domain fails: what
could not be done is in the log.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import syslog
from pathlib import PurePosixPath
from xml.etree import ElementTree

NAMESPACE = "urn:philoxenia:1"
STATE, RUN = "/var/lib/libvirt/philoxenia", "/run/libvirt/philoxenia"
GUARD = "guard.nft"
"""In a cluster's folder: the rules of its guests' bridge as nft takes them."""
PACKETS = 256


def ahead(text: str) -> str:
    """The shell commands without which the domain of this XML may not start; "" for one that is not ours."""
    root = ElementTree.fromstring(text)
    mark = root.find(f"metadata/{{{NAMESPACE}}}node")
    if mark is None:
        return ""
    lines = []
    source = root.find("devices/channel/source")
    folder = PurePosixPath((source.get("path") if source is not None else "") or "/").parent
    if folder.is_relative_to(RUN) and ".." not in folder.parts:
        lines.append(f"mkdir -p -m 711 {RUN} {shlex.quote(str(folder))}")
    cluster = mark.get("cluster") or ""
    table, rules = shlex.quote(f"phx-{cluster}"), shlex.quote(f"{STATE}/{cluster}/{GUARD}")
    lines.append(
        f"[ ! -e {rules} ] || nft list table bridge {table} >/dev/null 2>&1 || nft -f {rules}"
    )
    return "".join(f"{line}\n" for line in lines)


def script(text: str) -> str:
    """The shell commands that hold the domain of this XML, which runs; "" for one that is not ours."""
    root = ElementTree.fromstring(text)
    mark = root.find(f"metadata/{{{NAMESPACE}}}node")
    if mark is None:
        return ""
    name, tap = shlex.quote(root.findtext("name") or ""), root.find("devices/interface/target")
    got = {key: int(value) for key, value in mark.attrib.items() if value.isdigit()}
    lines = [f"xl sched-credit2 -d {name} -c {got['cpu-limit'] // 10}"]
    if tap is not None:
        device, whole = shlex.quote(tap.get("dev") or ""), f"{got['in-limit']}bit"
        lines += [
            f"tc qdisc replace dev {device} root handle 1: htb default 10",
            f"tc class replace dev {device} parent 1: classid 1:1 htb rate {whole} ceil {whole}",
            f"tc class replace dev {device} parent 1:1 classid 1:10 htb rate {got['in-guarantee']}bit ceil {whole}",
            f"tc qdisc replace dev {device} parent 1:10 handle 10: pfifo limit {PACKETS}",
            f"xenstore-write /local/domain/0/backend/vif/$(xl domid {name})/0/rate {rate(got['out-limit'])}",
        ]
    return "".join(f"{line}\n" for line in lines)


def rate(bits: int) -> str:
    """See cluster/guarantee.py, vif_rate: the same."""
    interval = 50_000 if bits * 50_000 % 8_000_000 == 0 else 40_000
    return f"{max(1, bits * interval // 8_000_000)},{interval}"


def main() -> None:
    asked = {"prepare": ahead, "started": script}.get("".join(sys.argv[2:3]))
    if asked is None:
        return
    try:
        wanted = asked(sys.stdin.read())
        if not wanted:
            return
        done = subprocess.run(
            ["sh", "-e"], input=wanted, capture_output=True, text=True, timeout=60, check=False
        )
        wrong = done.stderr.strip() if done.returncode != 0 else ""
    except (OSError, ValueError, KeyError, ElementTree.ParseError, subprocess.SubprocessError) as e:
        wrong = f"{type(e).__name__}: {e}"
    if wrong:
        syslog.syslog(f"philoxenia: {sys.argv[1]} is not held: {wrong}")
        if asked is ahead:
            sys.exit(f"philoxenia: its frames cannot be kept to its own addresses: {wrong}")


if __name__ == "__main__":
    main()
