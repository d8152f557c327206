"""Blobs on their way into a store: fetched once however many ask, read by all of them while they arrive.

Within a process the first asker's ``fetch`` serves everyone; between processes the lock of the partial
file elects one fetcher and the others follow the file. When the elected process dies, a follower takes
over behind the bytes that are there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import (
    FullError,
    ImagedistError,
    IntegrityError,
    NotFoundError,
    SourceError,
    StorageError,
    storage_error,
)
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.partial import Partial, stated_size
from imagedist.store.reading import OpenBlob, Span
from imagedist.store.window import Window
from imagedist.store.writer import MAX_PASSING, BlobWriter
from imagedist.threads import settled

__all__ = ["MAX_FETCHES", "Arrival", "Arrivals", "BlobWriter", "Fetch"]

log = logging.getLogger(__name__)

MAX_FETCHES = 64
_FIRST_LOOK_SECONDS, _EMPTY_LOOK_SECONDS, FOLLOW_SECONDS = 0.002, 0.008, 0.05
"""How often a follower looks at the file that another process is fetching: often until it has a first byte."""
_PAUSE_PER_READER_SECONDS, _LONGEST_PAUSE_SECONDS = 1e-4, 0.05
_FILE_RESERVE_BYTES = 1 << 20

Fetch = Callable[[BlobWriter], Awaitable[None]]


class Arrival:
    """One blob on its way, and everyone who waits for it. ``join`` of ``Arrivals`` makes it.

    Attributes:
        window: where the bytes go when there is no room to store them.
    """

    def __init__(self, store: BlobStore, digest: Digest, size_bytes: int | None) -> None:
        self.store = store
        self.digest = digest
        self.size_bytes = size_bytes
        self.present_bytes = 0
        self.window: Window | None = None
        self._passed_from = 0
        self._prefix: int | None = None
        self._readers: dict[ArrivingBlob, int] = {}
        self._begun = False
        self._committed = False
        self._verified = False
        self._failure: ImagedistError | None = None
        self._changed = asyncio.Event()
        self._waiting = 0
        self._waking: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "committed" if self._committed else "failed" if self._failure else "arriving"
        return f"<Arrival {self.digest} {self.present_bytes}/{self.size_bytes} {state}>"

    @property
    def is_committed(self) -> bool:
        return self._committed

    async def wait_begun(self) -> int:
        """The blob's size, once a source has answered.

        Raises:
            NotFoundError, SourceError, StorageError: as the fetch raised.
        """
        await self._until(lambda: self._begun)
        assert self.size_bytes is not None
        return self.size_bytes

    @property
    def is_verified(self) -> bool:
        return self._verified

    @property
    def is_open_to_all(self) -> bool:
        """Whether a reader who comes now can still have every byte."""
        return self.window is None or self.window.start == self._passed_from

    async def wait_verified(self) -> None:
        """Returns when size and digest matched; raises as the fetch did."""
        await self._until(lambda: self._verified)

    async def wait(self) -> None:
        """Returns when the blob is in the store as well; raises as the fetch did.

        Raises:
            FullError: there is no room for it; readers get it nevertheless.
        """
        await self._until(lambda: self._verified or self.window is not None)
        if not self._committed:
            raise FullError(
                f"no room to store blob {self.digest} in {self.store.root}; raise the quota or unpin images"
            )

    async def open(self) -> OpenBlob:
        """A reader that gives bytes as they come, once a source has answered; raises as the fetch did."""
        await self.wait_begun()
        while not self._committed:
            if self.window is not None:
                prefix = None if self._prefix is None else FileIO(os.dup(self._prefix))
                return ArrivingBlob(self, prefix)
            try:
                return ArrivingBlob(self, await asyncio.to_thread(FileIO, self.store.partial_path(self.digest)))
            except FileNotFoundError:  # renamed or given up this moment
                if self._verified and not self._committed:
                    raise SourceError(
                        f"blob {self.digest} came this moment, and there was no room: ask again"
                    ) from None
                await self._until(lambda: self._verified or self.window is not None)
            except OSError as error:
                raise storage_error(f"open blob {self.digest}", error) from error
        return await self.store.open(self.digest)

    async def wait_readable(self, offset: int) -> int:
        """The end of what may be given to readers, once it lies behind ``offset``: all but the last byte
        until the commit (design.md §4.1)."""
        size_bytes = await self.wait_begun()
        await self._until(lambda: self._verified or min(self.present_bytes, size_bytes - 1) > offset)
        return size_bytes if self._verified else min(self.present_bytes, size_bytes - 1)

    def seen(self, reader: ArrivingBlob, offset: int) -> None:
        """Where a reader is: nothing that it still needs is thrown away while it keeps up."""
        self._readers[reader] = offset
        if self.window is not None:
            self.window.join(reader, offset)

    def left(self, reader: ArrivingBlob) -> None:
        self._readers.pop(reader, None)
        if self.window is not None:
            self.window.leave(reader)

    def part(self, offset: int, end: int) -> int:
        """The end of the stored bytes behind ``offset``; ``offset`` itself when they are in the window."""
        return end if self.window is None else max(offset, min(end, self._passed_from))

    def pass_from(self, offset: int, prefix: int | None) -> None:
        """No room: bytes from ``offset`` on go by the window.

        Args:
            prefix: a file descriptor of the bytes before it, now the arrival's.
        """
        self._passed_from, self._prefix = offset, prefix
        if prefix is not None:
            weakref.finalize(self, os.close, prefix)
        self.window = Window(offset, self._wake)
        for reader, position in self._readers.items():
            self.window.join(reader, position)
        self._wake()

    def progress(self, size_bytes: int, present_bytes: int) -> None:
        self.size_bytes, self.present_bytes = size_bytes, present_bytes
        if self._begun:
            self._wake_soon()
        else:
            self._begun = True
            self._wake()

    def complete(self, size_bytes: int, *, committed: bool = True) -> None:
        self._committed, self._verified = committed, True
        self.progress(size_bytes, size_bytes)
        self._wake()

    def fail(self, error: ImagedistError) -> None:
        self._failure = error
        self._wake()

    def stop(self) -> None:
        """Nobody is waited for any more."""
        if self.window is not None:
            self.window.close()

    def _wake_soon(self) -> None:
        """A crowd is woken less often, each time for more bytes: five hundred readers per chunk would cost a CPU."""
        if self._waking is None:
            pause_seconds = min(_LONGEST_PAUSE_SECONDS, self._waiting * _PAUSE_PER_READER_SECONDS)
            self._waking = asyncio.get_running_loop().call_later(pause_seconds, self._wake)

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        self._waiting += 1
        try:
            while not condition():
                if self._failure is not None:
                    raise self._failure.with_traceback(None)
                await self._changed.wait()
        finally:
            self._waiting -= 1


class ArrivingBlob:
    """A reader of a blob that was still arriving when it was opened (``OpenBlob``).

    Args:
        file: what is stored of it, this reader's own; None: nothing is.
    """

    def __init__(self, arrival: Arrival, file: FileIO | None) -> None:
        self._arrival = arrival
        self._file = file
        arrival.seen(self, 0)

    @property
    def size_bytes(self) -> int:
        assert self._arrival.size_bytes is not None
        return self._arrival.size_bytes

    @property
    def is_verified(self) -> bool:
        return self._arrival.is_verified

    async def wait_verified(self) -> None:
        await self._arrival.wait_verified()

    async def span(self, offset: int) -> Span | None:
        self._arrival.seen(self, offset)
        stored_end = self._arrival.part(offset, await self._arrival.wait_readable(offset))
        return Span(self._file, stored_end) if self._file is not None and stored_end > offset else None

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        self._arrival.seen(self, offset)
        end = await self._arrival.wait_readable(offset)
        stored_end, window = self._arrival.part(offset, end), self._arrival.window
        if window is not None and stored_end <= offset:
            return window.read(self, offset, max(0, min(limit_bytes, end - offset)))
        assert self._file is not None
        try:
            return await asyncio.to_thread(
                os.pread, self._file.fileno(), max(0, min(limit_bytes, stored_end - offset)), offset
            )
        except OSError as error:
            raise storage_error(f"read blob {self._arrival.digest}", error) from error

    async def close(self) -> None:
        self._arrival.left(self)
        if self._file is not None:
            self._file.close()


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
            log.exception("fetch of blob %s failed", arrival.digest)
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
                followed = seen.inode
                arrival.progress(seen.size_bytes, seen.present_bytes)
            await asyncio.sleep(pause_seconds)
            is_empty = seen is None or seen.present_bytes == 0
            pause_seconds = min(_EMPTY_LOOK_SECONDS if is_empty else FOLLOW_SECONDS, 2 * pause_seconds)

    async def _claim_file(self, path: Path, digest: Digest) -> Partial | None:
        """On a disk that is full to the last byte, after evicting too: one that stores nothing."""
        try:
            return await asyncio.to_thread(Partial.claim, path, digest)
        except FullError:
            if not await self._store.space.relieve(_FILE_RESERVE_BYTES):
                return Partial.nowhere(digest)
        try:
            return await asyncio.to_thread(Partial.claim, path, digest)
        except FullError:
            return Partial.nowhere(digest)

    async def _fetch(self, arrival: Arrival, partial: Partial, fetch: Fetch) -> None:
        writer = BlobWriter(arrival, partial, self._passing, self._threads)
        try:
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
            log.warning("blob %s is passed on without being stored: %s", partial.digest, error)
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
