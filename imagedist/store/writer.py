"""What a fetch writes to: the partial file while there is room, else straight to who reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from imagedist.errors import FullError, IntegrityError, OverloadedError, SourceError
from imagedist.metrics import PASSED_THROUGH
from imagedist.store.partial import Partial

if TYPE_CHECKING:
    from imagedist.store.arrival import Arrival

_LOG = logging.getLogger(__name__)

MAX_PASSING = 16
"""Blobs that are passed on without being stored at a time: each holds a window in memory."""
_PASSING_TURN_SECONDS = 15.0


class BlobWriter:
    """What a fetch writes to: ``begin`` with the size, then every byte from ``offset`` on, in order.

    A fetch may go on at another source where one broke off: it begins again there, from ``offset``. When there is no
    room, not even after evicting, the bytes go on to the readers without being stored: they wait for each other then,
    and so does the fetch.

    Attributes:
        threads: for a fetch whose thread receives and appends.
    """

    def __init__(self, arrival: Arrival, partial: Partial, passing: asyncio.Semaphore, threads: Executor) -> None:
        self.threads = threads
        self._arrival = arrival
        self._partial = partial
        self._passing = passing
        self._loop = asyncio.get_running_loop()
        self.digest = arrival.digest
        self._has_begun = False
        self._has_turn = False

    @property
    def offset(self) -> int:
        """How many bytes are there already, from an earlier fetch too."""
        return self._partial.present_bytes

    @property
    def is_resumed(self) -> bool:
        """Whether the first bytes are of an earlier fetch, so that wrong ones may be its source's."""
        return self._partial.found_bytes > 0

    @property
    def has_begun(self) -> bool:
        """Whether askers were answered by this fetch."""
        return self._has_begun

    async def begin(self, size_bytes: int) -> None:
        """States the size of the whole blob. Until now askers wait; from now on they are answered.

        Raises:
            IntegrityError: not the size that was expected. OverloadedError: no room, and too many are passed on.
        """
        arrival = self._arrival
        if arrival.size_bytes not in (None, size_bytes) or size_bytes < self.offset:
            raise IntegrityError(
                f"blob {self.digest} is said to have {size_bytes} bytes, expected {arrival.size_bytes} "
                f"({self.offset} are here)"
            )
        if not self._has_begun:
            try:
                if self._partial.is_nowhere:
                    raise FullError(f"no file for blob {self.digest} can be made")
                await arrival.store.promise(self._partial, size_bytes)
            except FullError as error:
                await self._pass_on(error)
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
            IntegrityError: more bytes than the blob has. StorageError: the disk failed.
            SourceError: nobody reads what cannot be stored.
        """
        if not self._has_begun:
            if self._arrival.size_bytes is None:
                raise SourceError(f"nobody told the size of blob {self.digest}")
            await self.begin(self._arrival.size_bytes)
        if self._arrival.window is not None:
            await self._pass(chunk)
            return
        size_bytes, before = self._checked_size(len(chunk)), self.offset
        try:
            await asyncio.to_thread(self._partial.append, chunk)
        except FullError as error:
            await self._overflow(chunk[self.offset - before :], error)
        else:
            self._arrival.progress(size_bytes, self.offset)

    def append(self, chunk: bytes | memoryview) -> None:
        """``write`` for a thread that receives as well, after ``begin``. Blocking. Raises as ``write``."""
        arrival, partial = self._arrival, self._partial
        assert self._has_begun
        if arrival.window is not None:
            self._on_loop(self._pass, bytes(chunk))
            return
        size_bytes = self._checked_size(len(chunk))
        before = partial.present_bytes
        try:
            partial.append(chunk)
        except FullError as error:
            rest = bytes(chunk[partial.present_bytes - before :])
            self._on_loop(self._overflow, rest, error)
        else:
            self._loop.call_soon_threadsafe(arrival.progress, size_bytes, partial.present_bytes)

    def end(self) -> None:
        """The fetch is over, whatever came of it."""
        if self._has_turn:
            self._has_turn = False
            self._passing.release()

    def _on_loop(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(work(*arguments), self._loop).result()

    def _checked_size(self, more_bytes: int) -> int:
        size_bytes = self._arrival.size_bytes
        assert size_bytes is not None
        if self.offset + more_bytes > size_bytes:
            raise IntegrityError(f"blob {self.digest} is longer than its {size_bytes} bytes")
        return size_bytes

    async def _overflow(self, rest: bytes, error: FullError) -> None:
        """The disk is full although room was promised: others fill it."""
        size_bytes = self._checked_size(len(rest))
        if await self._arrival.store.space.relieve(size_bytes - self.offset):
            before = self.offset
            try:
                await asyncio.to_thread(self._partial.append, rest)
            except FullError:
                rest = rest[self.offset - before :]
            else:
                self._arrival.progress(size_bytes, self.offset)
                return
        await self._pass_on(error)
        await self._pass(rest)

    async def _pass_on(self, error: FullError) -> None:
        """From here on nothing is stored."""
        _LOG.warning("blob %s is passed on without being stored: %s", self.digest, error)
        PASSED_THROUGH.inc()
        try:
            async with asyncio.timeout(_PASSING_TURN_SECONDS):
                await self._passing.acquire()
        except TimeoutError:
            raise OverloadedError(f"no room to store blob {self.digest}, and too many pass: try again") from error
        self._has_turn = True
        self._arrival.pass_from(self.offset, self._partial.duplicate())
        await asyncio.to_thread(self._arrival.store.drop, self._partial)

    async def _pass(self, chunk: bytes) -> None:
        size_bytes, window = self._checked_size(len(chunk)), self._arrival.window
        assert window is not None
        await window.put(chunk)
        self._partial.pass_by(chunk)
        self._arrival.progress(size_bytes, self.offset)
