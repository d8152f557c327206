"""What a node gives its peers leaves the machine after everything else: bulk, to the kernel's queues.

libtorrent marks its connections with ``peer_dscp``, which it writes into the TOS byte as it is (2.1.1). ``0x08`` there,
"maximize throughput", is ``TC_PRIO_BULK`` to Linux: the last band of ``pfifo_fast``, its default queue on a card,
and of ``prio``. ``fq_codel`` and ``fq`` need no mark: they let small flows pass anyway.

Linux gives a socket that priority when its TOS changes. One that was accepted has its listener's TOS already but not
the priority (``sk_clone``), so nothing changes for it any more. A listener without the mark makes it change.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

TOS = 0x08


def unmark_listener(port: int) -> None:
    """Takes the mark off this process's listening sockets on a TCP port; what is accepted from now on gets its own."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            # A copy of a file's descriptor must not be made: closing it would drop the record locks of others here.
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as found:
                    _unmark(found, port)


def _unmark(found: socket.socket, port: int) -> None:
    if found.type != socket.SOCK_STREAM or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    if found.family == socket.AF_INET and found.getsockname()[1] == port:
        found.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0)
    elif found.family == socket.AF_INET6 and found.getsockname()[1] == port:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0)
