"""Blobs on their way into a store: fetched once however many ask, read by all of them while they arrive.

Within a process the first asker's ``fetch`` serves everyone; between processes the lock of the partial
file elects one fetcher and the others follow the file. When the elected process dies, a follower takes
over behind the bytes that are there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import ImagedistError, IntegrityError, NotFoundError, SourceError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.partial import Partial, stated_size
from imagedist.store.reading import OpenBlob, Span

log = logging.getLogger(__name__)

MAX_FETCHES = 64
_FIRST_LOOK_SECONDS, FOLLOW_SECONDS = 0.002, 0.05
"""How often a follower looks at the file that another process is fetching: often at first, for the first byte."""
_PAUSE_PER_READER_SECONDS, _LONGEST_PAUSE_SECONDS = 1e-4, 0.05

Fetch = Callable[["BlobWriter"], Awaitable[None]]


class BlobWriter:
    """What a fetch writes to: ``begin`` with the size, then every byte from ``offset`` on, in order.

    A fetch may go on at another source where one broke off: it begins again there, from ``offset``.

    Attributes:
        threads: for a fetch whose thread receives and appends.
    """

    def __init__(self, arrival: Arrival, partial: Partial, stack: AsyncExitStack, threads: Executor) -> None:
        self.threads = threads
        self._arrival = arrival
        self._partial = partial
        self._stack = stack
        self._loop = asyncio.get_running_loop()
        self.digest = arrival.digest
        self._has_begun = False

    @property
    def offset(self) -> int:
        """How many bytes are there already, from an earlier fetch too."""
        return self._partial.present_bytes

    async def begin(self, size_bytes: int) -> None:
        """States the size of the whole blob. Until now askers wait; from now on they are answered.

        Raises:
            IntegrityError: not the size that was expected. StorageError: no room under the quota.
        """
        arrival = self._arrival
        if arrival.size_bytes not in (None, size_bytes) or size_bytes < self.offset:
            raise IntegrityError(
                f"blob {self.digest} is said to have {size_bytes} bytes, expected {arrival.size_bytes} "
                f"({self.offset} are here)"
            )
        if not self._has_begun:
            await self._stack.enter_async_context(arrival.store.room(size_bytes, f"blob {self.digest}"))
            await asyncio.to_thread(self._partial.state_size, size_bytes)
            self._has_begun = True
        arrival.progress(size_bytes, self.offset)

    def check(self) -> None:
        """For who wants to know which source to blame: the commit checks again what all of them have sent.

        Raises:
            SourceError: bytes are missing. IntegrityError: wrong bytes.
        """
        if self._arrival.size_bytes is None or self.offset != self._arrival.size_bytes:
            raise SourceError(f"blob {self.digest} ended after {self.offset} of {self._arrival.size_bytes} bytes")
        self._partial.check()

    async def write(self, chunk: bytes) -> None:
        """Appends bytes; best called with 256 KiB or more, as each call is a turn of a thread.

        The first call begins by itself when the asker knew the size.

        Raises:
            IntegrityError: more bytes than the blob has. StorageError: the disk is full.
        """
        if not self._has_begun:
            if self._arrival.size_bytes is None:
                raise SourceError(f"nobody told the size of blob {self.digest}")
            await self.begin(self._arrival.size_bytes)
        await asyncio.to_thread(self.append, chunk)

    def append(self, chunk: bytes | memoryview) -> None:
        """``write`` for a thread that receives as well, after ``begin``. Blocking. Raises as ``write``."""
        arrival, partial = self._arrival, self._partial
        assert self._has_begun
        assert arrival.size_bytes is not None
        if partial.present_bytes + len(chunk) > arrival.size_bytes:
            raise IntegrityError(f"blob {self.digest} is longer than its {arrival.size_bytes} bytes")
        partial.append(chunk)
        self._loop.call_soon_threadsafe(arrival.progress, arrival.size_bytes, partial.present_bytes)


class Arrival:
    """One blob on its way, and everyone who waits for it. ``join`` of ``Arrivals`` makes it."""

    def __init__(self, store: BlobStore, digest: Digest, size_bytes: int | None) -> None:
        self.store = store
        self.digest = digest
        self.size_bytes = size_bytes
        self.present_bytes = 0
        self._begun = False
        self._committed = False
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

    async def wait(self) -> None:
        """Returns when size and digest matched and the blob is in the store; raises as the fetch did."""
        await self._until(lambda: self._committed)

    async def open(self) -> OpenBlob:
        """A reader that gives bytes as they come, once a source has answered; raises as the fetch did."""
        await self.wait_begun()
        if not self._committed:
            try:
                file = await asyncio.to_thread(FileIO, self.store.partial_path(self.digest))
                return ArrivingBlob(self, file)
            except FileNotFoundError:
                await self.wait()  # renamed this moment
            except OSError as error:
                raise storage_error(f"open blob {self.digest}", error) from error
        return await self.store.open(self.digest)

    async def wait_readable(self, offset: int) -> int:
        """The end of what may be given to readers, once it lies behind ``offset``: all but the last byte
        until the commit (design.md §4.1)."""
        size_bytes = await self.wait_begun()
        await self._until(lambda: self._committed or min(self.present_bytes, size_bytes - 1) > offset)
        return size_bytes if self._committed else min(self.present_bytes, size_bytes - 1)

    def progress(self, size_bytes: int, present_bytes: int) -> None:
        self.size_bytes, self.present_bytes = size_bytes, present_bytes
        if self._begun:
            self._wake_soon()
        else:
            self._begun = True
            self._wake()

    def complete(self, size_bytes: int) -> None:
        self._committed = True
        self.store.admit(self.digest, size_bytes)
        self.progress(size_bytes, size_bytes)
        self._wake()

    def fail(self, error: ImagedistError) -> None:
        self._failure = error
        self._wake()

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
    """A reader of a blob that was still arriving when it was opened (``OpenBlob``)."""

    def __init__(self, arrival: Arrival, file: FileIO) -> None:
        self._arrival = arrival
        self._file = file

    @property
    def size_bytes(self) -> int:
        assert self._arrival.size_bytes is not None
        return self._arrival.size_bytes

    @property
    def is_verified(self) -> bool:
        return self._arrival.is_committed

    async def wait_verified(self) -> None:
        await self._arrival.wait()

    async def span(self, offset: int) -> Span:
        return Span(self._file, await self._arrival.wait_readable(offset))

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        end = await self._arrival.wait_readable(offset)
        try:
            return await asyncio.to_thread(
                os.pread, self._file.fileno(), max(0, min(limit_bytes, end - offset)), offset
            )
        except OSError as error:
            raise storage_error(f"read blob {self._arrival.digest}", error) from error

    async def close(self) -> None:
        self._file.close()


class Arrivals:
    """All arrivals of one store in one process; at most ``max_fetches`` fetch at the same time."""

    def __init__(self, store: BlobStore, max_fetches: int = MAX_FETCHES) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(max_fetches)
        self._threads = ThreadPoolExecutor(max_fetches, "receive")
        self._arrivals: dict[Digest, Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, digest: Digest) -> Arrival | None:
        """The arrival under way, if there is one."""
        return self._arrivals.get(digest)

    async def join(self, digest: Digest, size_hint: int | None, fetch: Fetch) -> Arrival:
        """The arrival of a blob, begun now if there is none; ``fetch`` is called at most once.

        An asker that is cancelled leaves the fetch running for the others, and to its end.

        Args:
            size_hint: the size the descriptor states, if known: another size is refused.
        """
        if arrival := self._arrivals.get(digest):
            return arrival
        arrival = Arrival(self._store, digest, size_hint)
        if self._store.has(digest):
            arrival.complete(self._store.size_bytes(digest))
            return arrival
        self._arrivals[digest] = arrival
        task = asyncio.create_task(self._run(arrival, fetch), name=f"arrival of {digest}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return arrival

    async def close(self) -> None:
        """Stops every fetch; what has arrived stays for the next process."""
        for task in self._tasks:
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
            self._arrivals.pop(arrival.digest, None)

    async def _claim(self, arrival: Arrival) -> Partial | None:
        """The lock of the partial file, or None once another process has committed the blob."""
        path = self._store.partial_path(arrival.digest)
        followed: int | None = None
        pause_seconds = _FIRST_LOOK_SECONDS
        while True:
            partial = await asyncio.to_thread(Partial.claim, path, arrival.digest)
            is_committed = self._store.has(arrival.digest)
            if partial is not None and not is_committed:
                if followed not in (None, partial.inode()):
                    await asyncio.to_thread(partial.drop)
                    raise SourceError(f"another worker's fetch of blob {arrival.digest} failed; ask again")
                return partial
            if partial is not None:
                await asyncio.to_thread(partial.drop)
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
            pause_seconds = min(FOLLOW_SECONDS, 2 * pause_seconds)

    async def _fetch(self, arrival: Arrival, partial: Partial, fetch: Fetch) -> None:
        async with AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(partial.take_over)
                writer = BlobWriter(arrival, partial, stack, self._threads)
                await fetch(writer)
                writer.check()
                final = self._store.path(arrival.digest)
                await asyncio.to_thread(lambda: partial.commit(final, durable=self._store.durable))
            except (IntegrityError, NotFoundError, StorageError):
                await asyncio.to_thread(partial.drop)  # wrong, or in the way: never resumed
                raise
            except BaseException:
                partial.release()
                raise
            arrival.complete(partial.present_bytes)


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
