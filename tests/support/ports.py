"""Ports for programs that tests start, of which a port has to be told."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below those that the kernel gives away by itself (ip(7), ``ip_local_port_range``): between our look and the program's
start no other socket of the machine gets one of these."""
_APART = 1_009
"""Of processes that are started one after the other, such as pytest-xdist's workers: more than any of them needs."""
_numbers = itertools.count(os.getpid() * _APART)


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody listens on, and that this process has not had before."""
    while True:
        port = _FIRST + next(_numbers) % _COUNT
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port
