"""Looking after blobs at rest: each is read again from the disk, at a bounded rate, and dropped when it has rotted.

One process of a machine does it at a time (the lock of ``scrub.lock``). How far it has come lies in ``scrub``, so that
a round goes on after a restart; ``scrub.wanted`` asks whoever has the lock for a round now.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from imagedist.errors import storage_error
from imagedist.locking import LockFile
from imagedist.metrics import ROTTEN, SCRUBBED_BYTES
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.files import HASH_STEP_BYTES, write_aside
from imagedist.store.inventory import ALGORITHMS
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

_SAVE_SECONDS = 10.0
POLL_SECONDS = 15.0
"""How often a process looks whether a round is due, or wanted by another one."""


class ScrubState(BaseModel):
    """How far scrubbing has come.

    Attributes:
        position: the last digest checked in the round under way; None between rounds.
        checked_blobs, checked_bytes, rotten_blobs: of this round, or the last one.
        started_at, finished_at: of this round and of the last whole one, in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    format: int = 1
    position: str | None = None
    checked_blobs: int = 0
    checked_bytes: int = 0
    rotten_blobs: int = 0
    started_at: float | None = None
    finished_at: float | None = None


class Scrub:
    """The scrubbing of one store.

    Args:
        interval_seconds: from the start of a round to that of the next.
        pace: waits until so many bytes may be read.
        dropped: told of each blob that was dropped.
        clock: seconds since the epoch.
        read: as ``os.pread``.
    """

    def __init__(
        self,
        store: BlobStore,
        interval_seconds: float,
        pace: Callable[[int], Awaitable[None]],
        dropped: Callable[[Digest], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.time,
        poll_seconds: float = POLL_SECONDS,
        read: Callable[[int, int, int], bytes] = os.pread,
    ) -> None:
        self._store = store
        self._interval_seconds = interval_seconds
        self._pace = pace
        self._dropped = dropped
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._read = read
        self._has_dropped_unread = False
        self._state_path, self._wanted_path = (store.root / name for name in ("scrub", "scrub.wanted"))
        self._wanted = asyncio.Event()

    def state(self) -> ScrubState:
        """Blocking. Raises StorageError."""
        try:
            return ScrubState.model_validate_json(self._state_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return ScrubState()
        except OSError as error:
            raise storage_error(f"read {self._state_path}", error) from error

    def is_wanted(self) -> bool:
        return self._wanted_path.exists()

    def is_running(self) -> bool:
        """Whether some process is at it. Blocking."""
        lock = LockFile(self._store.root / "scrub.lock")
        try:
            return not lock.try_acquire(shared=True)
        finally:
            lock.close()

    def next_at(self) -> float | None:
        """When the next round is due; None: never by itself. Blocking."""
        state = self.state()
        if state.position is not None:
            return self._clock()
        if self._interval_seconds == float("inf"):
            return None
        return self._clock() if state.started_at is None else state.started_at + self._interval_seconds

    async def want(self) -> None:
        """Asks for a round now, by whichever process; one under way goes on. Raises StorageError."""
        await asyncio.to_thread(write_aside, self._wanted_path, b"")
        self._wanted.set()

    async def run(self) -> None:
        """Scrubs when it is due, until it is cancelled."""
        while True:
            try:
                await self.run_if_due()
            except Exception:
                _LOG.exception("scrubbing of %s failed; it goes on later", self._store.root)
            self._wanted.clear()
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def run_if_due(self) -> bool:
        """One round, or the rest of one; False: not due, or another process is at it.

        Raises:
            StorageError: how far it came cannot be read or written.
        """
        next_at = await asyncio.to_thread(self.next_at)
        if not self.is_wanted() and (next_at is None or self._clock() < next_at):
            return False
        lock = LockFile(self._store.root / "scrub.lock")
        try:
            if not lock.try_acquire():
                return False
            self._wanted_path.unlink(missing_ok=True)
            await self._round()
        finally:
            lock.close()
        return True

    async def _round(self) -> None:
        state = await asyncio.to_thread(self.state)
        if state.position is None:
            self._has_dropped_unread = False
            state = ScrubState(position="", started_at=self._clock(), finished_at=state.finished_at)
            _LOG.info("scrubbing %s", self._store.root)
        saved_at = self._clock()
        for digest in await asyncio.to_thread(self._behind, state.position or ""):
            size_bytes = await self._check(digest)
            state = state.model_copy(
                update={
                    "position": str(digest),
                    "checked_blobs": state.checked_blobs + 1,
                    "checked_bytes": state.checked_bytes + (size_bytes or 0),
                    "rotten_blobs": state.rotten_blobs + (size_bytes is None),
                }
            )
            if size_bytes is None or self._clock() - saved_at >= _SAVE_SECONDS:
                saved_at = self._clock()
                await asyncio.to_thread(self._save, state)
        state = state.model_copy(update={"position": None, "finished_at": self._clock()})
        await asyncio.to_thread(self._save, state)
        _LOG.info(
            "scrubbed %s: %d blobs, %d bytes, %d had rotted",
            self._store.root,
            state.checked_blobs,
            state.checked_bytes,
            state.rotten_blobs,
        )

    def _save(self, state: ScrubState) -> None:
        write_aside(self._state_path, state.model_dump_json().encode())

    def _behind(self, position: str) -> list[Digest]:
        """The blobs after a position, in the order of their digests."""
        named = [
            Digest.of_name(algorithm, name)
            for algorithm in ALGORITHMS
            for name in os.listdir(self._store.root / "blobs" / algorithm)
            if f"{algorithm}:{name}" > position
        ]
        return sorted(digest for digest in named if digest is not None)

    async def _check(self, digest: Digest) -> int | None:
        """The blob's bytes, 0 when it was evicted meanwhile or is left alone, None when it was rotten and is gone."""
        try:
            descriptor = await settled(asyncio.to_thread(_open, self._store.path(digest)), os.close)
        except FileNotFoundError:
            return 0
        try:
            is_right, size_bytes = await self._is_right(digest, descriptor)
        except OSError as error:
            # A bad sector is one blob's. A disk that fails in more of them says nothing of what lies on it, and an
            # outage of one that hangs on a network would cost all.
            if error.errno != errno.EIO or self._has_dropped_unread:
                _LOG.error("%s cannot be read, and is left as it is: %s", digest, error)
                return 0
            _LOG.error("%s cannot be read: %s", digest, error)
            self._has_dropped_unread, is_right, size_bytes = True, False, 0
        finally:
            os.close(descriptor)
        if is_right:
            return size_bytes
        ROTTEN.inc()
        _LOG.error("%s has rotted on the disk of %s: dropping it", digest, self._store.root)
        may_evict = self._store.space.may_evict
        if may_evict is not None and not await may_evict(digest):
            _LOG.warning("somebody may still seed %s: peers refuse its wrong pieces", digest)
        await self._store.remove(digest)
        await self._dropped(digest)
        return None

    async def _is_right(self, digest: Digest, descriptor: int) -> tuple[bool, int]:
        hasher, offset = digest.hasher(), 0
        while True:
            chunk = await asyncio.to_thread(self._read, descriptor, HASH_STEP_BYTES, offset)
            if not chunk:
                break
            await asyncio.to_thread(hasher.update, chunk)
            offset += len(chunk)
            SCRUBBED_BYTES.inc(len(chunk))
            await self._pace(len(chunk))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return digest.matches(hasher), offset


def _open(path: Path) -> int:
    """For reading what the disk has, not the page cache, and without counting as a use."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME)
    except PermissionError:  # somebody else's file
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor
