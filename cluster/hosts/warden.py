"""The first process of a sandbox host's process namespace: starts virtlogd and libvirtd, starts them again when they
end, and takes every orphan's exit status.

The last is why it exists: QEMU runs as a daemon, so its parent becomes the namespace's first process, and libvirt waits
until that one has taken its status. Where the machine's init is slow at it, each end of a QEMU costs seconds: 20 s
for the six that libvirtd starts to learn QEMU's capabilities. Run as a program, standard library only.
"""

import os
import signal
import sys
import time

PROGRAMS = ("virtlogd", "libvirtd")
PAUSE = 0.5
"""Seconds between the end of a program and its next start."""


def start(name: str, run: str) -> int:
    return os.spawnvp(os.P_NOWAIT, name, [name, "-p", f"{run}/{name}.pid"])


def main(run: str) -> None:
    # As the first process it gets no signal that it does not handle; its end is the end of all in the namespace.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = {start(name, run): name for name in PROGRAMS}
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            time.sleep(PAUSE)
            continue
        name = running.pop(pid, None)
        if name is not None:
            print(f"warden: {name} ended, starting it again", file=sys.stderr, flush=True)
            time.sleep(PAUSE)
            running[start(name, run)] = name


if __name__ == "__main__":
    main(sys.argv[1])
