"""One blob on its way into a store, and its readers: they get bytes as they arrive, and the last one verified."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from io import FileIO

from imagedist.errors import FullError, ImagedistError, SourceError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import OpenBlob, Span
from imagedist.store.window import Window
from imagedist.threads import settled

_PAUSE_PER_READER_SECONDS, _LONGEST_PAUSE_SECONDS = 1e-4, 0.05


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
        self.inode: int | None = None
        """Of the partial file that it is about; None before a fetch is under way, and when there is none."""
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
                partial = await settled(asyncio.to_thread(self._open_partial), FileIO.close)
                return ArrivingBlob(self, partial)
            except FileNotFoundError:  # renamed or given up this moment
                if self._verified and not self._committed:
                    raise SourceError(
                        f"blob {self.digest} came this moment, and there was no room: ask again"
                    ) from None
                await self._until(lambda: self._verified or self.window is not None)
            except OSError as error:
                raise storage_error(f"open blob {self.digest}", error) from error
        return await self.store.open(self.digest)

    def _open_partial(self) -> FileIO:
        """The very file that this arrival is about: another process may have dropped it and begun anew, and what lies
        in that one is neither what was seen nor what will be verified here. Raises FileNotFoundError: it is gone."""
        file = FileIO(self.store.partial_path(self.digest))
        if os.fstat(file.fileno()).st_ino != self.inode:
            file.close()
            raise FileNotFoundError
        return file

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
        wanted_bytes = max(0, min(limit_bytes, stored_end - offset))
        try:
            chunk = await asyncio.to_thread(os.pread, self._file.fileno(), wanted_bytes, offset)
        except OSError as error:
            raise storage_error(f"read blob {self._arrival.digest}", error) from error
        if wanted_bytes and not chunk:
            raise SourceError(f"blob {self._arrival.digest} was cut off at {offset} bytes: ask again")
        return chunk

    async def close(self) -> None:
        self._arrival.left(self)
        if self._file is not None:
            self._file.close()
