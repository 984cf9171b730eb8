"""Sockets in a host's network: a thread enters its namespace, opens them, and ends; the process stays where it is."""

from __future__ import annotations

import socket
import threading

from builder.errors import WorkFailed


def listen(netns: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket at an address of the namespace (ours when the name is ""). WorkFailed if it cannot be."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            if netns:
                from pyroute2.netns import setns

                setns(netns)  # of this thread alone (setns(2))
            made.append(socket.create_server((address, port), backlog=1024))
        except OSError as cause:
            failed.append(cause)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise WorkFailed(f"cannot listen at {address}:{port} in the host's network") from failed[0]
    return made[0]
