"""Free memory as a machine has it that works: pages which its host, if there is one, has given it already."""

from __future__ import annotations

import mmap

from imagedist import memory

_SHARE_OF_AVAILABLE = 2
"""At most one part in so many is touched: nobody else's memory is to be pushed out."""


def touch(size_bytes: int) -> None:
    """Takes so much memory and gives it back: whoever takes it next gets it at its usual price.

    A virtual machine's host may take free pages back within seconds. The first touch of such a page costs some 2 µs
    instead of 0.3: 1.7 GB were written to a tmpfs in 0.45 s of CPU, and in 4.1 s, depending on what had run before.
    """
    size_bytes = min(size_bytes, memory.available_bytes() // _SHARE_OF_AVAILABLE)
    if size_bytes > 0:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, size_bytes, flags=flags).close()
