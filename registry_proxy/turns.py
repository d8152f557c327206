"""One process of the site at a time asks upstream about a tag: a byte of a lock file for each, free when one dies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from imagedist.locking import LockFile

_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.002, 0.03
LONGEST_WAIT_SECONDS = 30.0
"""Then it is asked by two: better than a client that waits for a process that hangs."""


class Turns:
    """Within a process, the caller keeps the askers of one key apart (``Flights``)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: LockFile | None = None

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        if self._lock is None:
            self._lock = LockFile(self._path)
        lock = self._lock
        byte = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")  # a collision only waits
        give_up = asyncio.get_running_loop().time() + LONGEST_WAIT_SECONDS
        poll_seconds = _FIRST_POLL_SECONDS
        while not (is_held := lock.try_acquire(byte, 1)):
            if asyncio.get_running_loop().time() > give_up:
                break
            await asyncio.sleep(poll_seconds)
            poll_seconds = min(_LONGEST_POLL_SECONDS, 1.5 * poll_seconds)
        try:
            yield
        finally:
            if is_held:
                lock.release(byte, 1)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
