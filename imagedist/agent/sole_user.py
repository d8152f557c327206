"""One agent for one cache: what another has on its way would be taken for left-overs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from imagedist.errors import InputError, storage_error
from imagedist.locking import LockFile
from imagedist.store.format import refuse_foreign
from imagedist.threads import settled

_LOCK = "agent.lock"
_END_SECONDS = 2.0
"""The last agent may be ending just now."""
_LOOK_SECONDS = 0.05


@asynccontextmanager
async def sole_user(node_blobs: Path) -> AsyncIterator[None]:
    """Holds the directory for the length of the block; makes it, if it is not there.

    Raises:
        InputError: another agent has it. StorageError: it cannot be made, or is somebody else's.
    """
    lock = await settled(asyncio.to_thread(_lock_file, node_blobs), LockFile.close)
    try:
        for _ in range(round(_END_SECONDS / _LOOK_SECONDS)):
            if lock.try_acquire():
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            raise InputError(f"another agent uses {node_blobs}: stop it, or give this one its own agent.node_blobs")
        yield
    finally:
        lock.close()


def _lock_file(node_blobs: Path) -> LockFile:
    """In the directory, which is made if it is not there. Raises InputError, StorageError."""
    refuse_foreign(node_blobs)  # no lock is put there either
    try:
        node_blobs.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise storage_error(f"make {node_blobs}", error) from error
    return LockFile(node_blobs / _LOCK, mode=0o600)
