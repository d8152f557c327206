"""Reads what the kernel has in memory already, on the event loop; what lies on a disk is for others to wait for."""

from __future__ import annotations

import os
from io import FileIO


def read_cached(file: FileIO, offset: int, count: int) -> bytearray | None:
    """At most ``count`` bytes at ``offset``, in some microseconds. None: they are not in the page cache, or the file
    system cannot tell (tmpfs, NFS). preadv2(2), ``RWF_NOWAIT``."""
    buffer = bytearray(count)
    try:
        got = os.preadv(file.fileno(), [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN, EOPNOTSUPP; whatever else it is, a read that may wait says it
        return None
    if got == 0:
        return None
    del buffer[got:]
    return buffer
