"""Blobs on their way into a store: fetched once however many ask, read by all of them while they arrive.

Within a process the first asker's ``fetch`` serves everyone; between processes the lock of the partial
file elects one fetcher and the others follow the file. When the elected process dies, a follower takes
over behind the bytes that are there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import FullError, ImagedistError, IntegrityError, NotFoundError, SourceError, StorageError
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival
from imagedist.store.blobs import BlobStore
from imagedist.store.partial import Partial, stated_size
from imagedist.store.writer import MAX_PASSING, BlobWriter
from imagedist.threads import settled

_LOG = logging.getLogger(__name__)

MAX_FETCHES = 64
_FIRST_LOOK_SECONDS, _EMPTY_LOOK_SECONDS, FOLLOW_SECONDS = 0.002, 0.008, 0.05
"""How often a follower looks at the file that another process is fetching: often until it has a first byte."""
_FILE_RESERVE_BYTES = 1 << 20

Fetch = Callable[[BlobWriter], Awaitable[None]]


class Arrivals:
    """All arrivals of one store in one process; at most ``max_fetches`` fetch at the same time."""

    def __init__(self, store: BlobStore, max_fetches: int = MAX_FETCHES) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(max_fetches)
        self._threads = ThreadPoolExecutor(max_fetches, "receive")
        self._passing = asyncio.Semaphore(MAX_PASSING)
        self._arrivals: dict[Digest, Arrival] = {}
        self._tasks: dict[asyncio.Task[None], Arrival] = {}

    def get(self, digest: Digest) -> Arrival | None:
        """The arrival under way, if there is one, and a reader can still have all of it."""
        arrival = self._arrivals.get(digest)
        return arrival if arrival is not None and arrival.is_open_to_all else None

    async def join(self, digest: Digest, size_hint: int | None, fetch: Fetch) -> Arrival:
        """The arrival of a blob, begun now if there is none; ``fetch`` is called at most once.

        An asker that is cancelled leaves the fetch running for the others, and to its end.

        Args:
            size_hint: the size the descriptor states, if known: another size is refused.
        """
        if arrival := self.get(digest):
            return arrival
        arrival = Arrival(self._store, digest, size_hint)
        if self._store.has(digest):
            arrival.complete(self._store.size_bytes(digest))
            return arrival
        self._arrivals[digest] = arrival
        task = asyncio.create_task(self._run(arrival, fetch), name=f"arrival of {digest}")
        self._tasks[task] = arrival
        task.add_done_callback(self._tasks.pop)
        return arrival

    async def abandon(self, arrival: Arrival) -> FileIO | None:
        """Stops a fetch and drops what has arrived: the blob comes another way. Its readers get ``SourceError``.

        Returns:
            What had arrived, and has no name any more; the caller closes it. None: it was too late, all is verified.

        Raises:
            StorageError.
        """
        task = next((task for task, other in self._tasks.items() if other is arrival), None)
        if task is not None:
            arrival.stop()
            task.cancel()
            await asyncio.wait([task])
        if arrival.is_verified:
            return None
        return await settled(asyncio.to_thread(self._drop, arrival), FileIO.close)

    def _drop(self, arrival: Arrival) -> FileIO:
        partial = Partial.claim(self._store.partial_path(arrival.digest), arrival.digest)
        if partial is None:
            raise StorageError(f"cannot drop what came of blob {arrival.digest}: another process fetches it")
        try:
            return FileIO(self._store.partial_path(arrival.digest))
        finally:
            self._store.drop(partial)

    async def close(self) -> None:
        """Stops every fetch; what has arrived stays for the next process."""
        for task, arrival in self._tasks.items():
            arrival.stop()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _run(self, arrival: Arrival, fetch: Fetch) -> None:
        try:
            async with self._slots:
                partial = await self._claim(arrival)
                if partial is not None:
                    await self._fetch(arrival, partial, fetch)
        except ImagedistError as error:
            arrival.fail(error)
        except asyncio.CancelledError:
            arrival.fail(SourceError(f"the fetch of blob {arrival.digest} was stopped"))
            raise
        except Exception as error:
            _LOG.exception("fetch of blob %s failed", arrival.digest)
            arrival.fail(SourceError(f"the fetch of blob {arrival.digest} failed: {error!r}"))
        finally:
            if self._arrivals.get(arrival.digest) is arrival:
                del self._arrivals[arrival.digest]

    async def _claim(self, arrival: Arrival) -> Partial | None:
        """The lock of the partial file, or None once another process has committed the blob."""
        path = self._store.partial_path(arrival.digest)
        followed: int | None = None
        pause_seconds = _FIRST_LOOK_SECONDS
        while True:
            partial = await self._claim_file(path, arrival.digest)
            is_committed = self._store.has(arrival.digest)
            if partial is not None and not is_committed:
                if not partial.is_nowhere and followed not in (None, partial.inode()):
                    await asyncio.to_thread(self._store.drop, partial)
                    raise SourceError(f"another worker's fetch of blob {arrival.digest} failed; ask again")
                return partial
            if partial is not None:
                await asyncio.to_thread(self._store.drop, partial)
            if is_committed:
                if followed not in (None, await asyncio.to_thread(_inode, self._store.path(arrival.digest))):
                    raise SourceError(f"another worker's fetch of blob {arrival.digest} failed; ask again")
                arrival.complete(self._store.size_bytes(arrival.digest))
                return None
            seen = await asyncio.to_thread(_look, path)
            if seen is not None and followed in (None, seen.inode):
                followed = arrival.inode = seen.inode
                arrival.progress(seen.size_bytes, seen.present_bytes)
            await asyncio.sleep(pause_seconds)
            is_empty = seen is None or seen.present_bytes == 0
            pause_seconds = min(_EMPTY_LOOK_SECONDS if is_empty else FOLLOW_SECONDS, 2 * pause_seconds)

    async def _claim_file(self, path: Path, digest: Digest) -> Partial | None:
        """On a disk that is full to the last byte, after evicting too: one that stores nothing."""
        try:
            return await self._lock_file(path, digest)
        except FullError:
            if not await self._store.space.relieve(_FILE_RESERVE_BYTES):
                return Partial.nowhere(digest)
        try:
            return await self._lock_file(path, digest)
        except FullError:
            return Partial.nowhere(digest)

    @staticmethod
    async def _lock_file(path: Path, digest: Digest) -> Partial | None:
        """A fetch that is stopped meanwhile leaves no lock behind: it would keep everybody from the blob."""

        def unlock(partial: Partial | None) -> None:
            if partial is not None:
                partial.release()

        return await settled(asyncio.to_thread(Partial.claim, path, digest), unlock)

    async def _fetch(self, arrival: Arrival, partial: Partial, fetch: Fetch) -> None:
        writer = BlobWriter(arrival, partial, self._passing, self._threads)
        arrival.inode = None if partial.is_nowhere else partial.inode()
        try:
            if partial.found_bytes:
                await asyncio.to_thread(partial.take_over)
            await fetch(writer)
            writer.check()
            is_stored = arrival.window is None and await self._commit(partial)
        except (IntegrityError, NotFoundError, StorageError):
            await asyncio.to_thread(self._store.drop, partial)  # wrong, or in the way: never resumed
            raise
        except BaseException:
            await settled(asyncio.to_thread(self._store.release, partial))
            raise
        finally:
            writer.end()
        arrival.complete(partial.present_bytes, committed=is_stored)

    async def _commit(self, partial: Partial) -> bool:
        """Whether there was room for the last few bytes that a commit takes."""
        try:
            await asyncio.to_thread(self._store.commit, partial)
        except FullError as error:
            _LOG.warning("blob %s is passed on without being stored: %s", partial.digest, error)
            await asyncio.to_thread(self._store.drop, partial)
            return False
        return True


class _Seen(NamedTuple):
    inode: int
    size_bytes: int
    present_bytes: int


def _look(path: Path) -> _Seen | None:
    """How far another process's fetch has come; None before its source has answered. Blocking."""
    size_bytes = stated_size(path)
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return None if size_bytes is None else _Seen(stat.st_ino, size_bytes, stat.st_size)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
