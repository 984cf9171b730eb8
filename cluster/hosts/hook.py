#!/usr/bin/python3 -ISB
"""What libvirt runs in dom0 when a domain has started (hooks/libxl): holds it to what its metadata promises.

Xen forgets a cap and the rate of a network device with each domain, and a guest that reboots, is restored, or is
started by whoever it may be, is another domain. So its limits are set here, where every start comes by, from the mark
in its definition; `phx` sets them too, and reads them back. Runs alone, standard library only, asks libvirt nothing
(a hook must not: https://libvirt.org/hooks.html), and lets no domain fail: what it could not do is in its log.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import syslog
from xml.etree import ElementTree

NAMESPACE = "urn:philoxenia:1"
PACKETS = 256


def script(text: str) -> str:
    """The shell commands that hold the domain of this XML; "" for one that is not ours."""
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
    if sys.argv[2:3] != ["started"]:
        return
    try:
        wanted = script(sys.stdin.read())
        done = subprocess.run(
            ["sh", "-e"], input=wanted, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            syslog.syslog(f"philoxenia: {sys.argv[1]} is not held: {done.stderr.strip()}")
    except (OSError, ValueError, KeyError, ElementTree.ParseError, subprocess.SubprocessError) as e:
        syslog.syslog(f"philoxenia: {sys.argv[1]} is not held: {type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
