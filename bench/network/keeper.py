"""Outlives the owner of a test network: kills whatever runs in its namespaces once the owner closes it or is gone.

Run as a file of its own with nothing but the standard library. It holds every namespace until it is done, so that no
other can have their numbers meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

_END_SECONDS = 60.0
_POLL_SECONDS = 0.02


def main(owner: int, connection: socket.socket) -> int:
    """Takes namespaces from the connection until its end. The exit code is 1 when something did not die."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    namespaces = _received(connection, owner)
    deadline = time.monotonic() + _END_SECONDS
    while inside := _inside(namespaces, owner):
        if time.monotonic() > deadline:
            return 1
        for process in inside:
            _kill(process)
        time.sleep(_POLL_SECONDS)
    return 0


def _received(connection: socket.socket, owner: int) -> set[int]:
    """The numbers of the namespaces; their descriptors stay open."""
    numbers: set[int] = set()
    connection.setblocking(False)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        # A forked child of the owner may still hold the other end: its death is what counts.
        death = os.pidfd_open(owner)
        poll.register(death, select.POLLIN)
    except ProcessLookupError:
        death = -1
    while True:
        is_over = death in [ready for ready, _ in poll.poll()]
        try:
            while True:
                message, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
                if not message:
                    return numbers
                numbers.update(os.fstat(descriptor).st_ino for descriptor in descriptors)
        except BlockingIOError:
            if is_over:
                return numbers


def _inside(namespaces: set[int], owner: int) -> list[int]:
    """Processes in one of the namespaces; those that have ended but were not waited for have none any more."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns/net").stat().st_ino in namespaces and int(entry.name) != owner:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))))
