"""One blob on its way to this node, by swarm or by HTTP, and the readers that follow it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeAlias

from imagedist.errors import ImagedistError, IntegrityError
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival
from imagedist.store.reading import OpenBlob, Span
from imagedist.swarm.session import Transfer

Way: TypeAlias = Arrival | Transfer


class Inbound:
    """Which way a blob is coming at the moment. Readers look here again after every change of way.

    Attributes:
        committed: the verified file, open for all readers: a reader is not disturbed when the cache evicts the blob.
        gave: ways of which some reader has bytes.
        condemned: those whose bytes are not of the blob that came whole, or may not be, and why; set, if at all, before
            the commit.
        passed: the way by which it came whole and right, but there was no room to store it.
    """

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.size_bytes: int | None = None
        self.way: Way | None = None
        self.committed: OpenBlob | None = None
        self.failure: ImagedistError | None = None
        self.gave: set[Way] = set()
        self.condemned: dict[Way, IntegrityError] = {}
        self.passed: Arrival | None = None
        self._readers = 0
        self._changed = asyncio.Event()

    def learn_size(self, size_bytes: int) -> None:
        """
        Raises:
            IntegrityError: readers were told another size.
        """
        if self.size_bytes not in (None, size_bytes):
            raise IntegrityError(f"the site says {self.digest} has {size_bytes} bytes, and before {self.size_bytes}")
        self.size_bytes = size_bytes
        self._announce()

    def take(self, way: Way) -> None:
        self.way = way
        self._announce()

    def condemn(self, way: Way, why: str) -> None:
        """Readers that have bytes of this way do not get the rest."""
        self.condemned[way] = IntegrityError(f"{why} {self.digest}; ask again")

    async def commit(self, blob: OpenBlob) -> None:
        self.committed = blob
        self._announce()
        if not self._readers:
            await blob.close()

    @property
    def is_open_to_all(self) -> bool:
        """Whether a reader who comes now can still have every byte."""
        return not isinstance(self.way, Arrival) or self.way.is_open_to_all

    def pass_on(self, arrival: Arrival) -> None:
        self.passed = arrival
        self._announce()

    async def wait_left(self) -> None:
        """Returns when nobody reads any more."""
        while self._readers:
            await self._changed.wait()

    def fail(self, failure: ImagedistError) -> None:
        self.failure = failure
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def change(self) -> asyncio.Event:
        """Set at the next change of anything above."""
        return self._changed

    async def known_size(self) -> int:
        """Waits until anybody has told the size.

        Raises:
            ImagedistError: the blob will not come.
        """
        while self.size_bytes is None:
            if self.failure:
                raise self.failure.with_traceback(None)
            await self._changed.wait()
        return self.size_bytes

    def join(self) -> None:
        """Announces a reader: what is committed stays open until the last one has left."""
        self._readers += 1

    async def leave(self) -> None:
        self._readers -= 1
        if not self._readers and self.committed is not None:
            await self.committed.close()
        elif not self._readers:
            self._announce()


class InboundReader:
    """An ``OpenBlob`` over an inbound blob: verified pieces from the swarm, or HTTP bytes as they arrive.

    Never gives the last byte before size and digest were checked (design.md §4.1), nor to a reader whose earlier
    bytes came another way and turned out to be of another blob.

    Args:
        inbound: already joined; ``close`` leaves it.
    """

    def __init__(self, inbound: Inbound, size_bytes: int) -> None:
        self._inbound = inbound
        self._size_bytes = size_bytes
        self._is_closed = False
        self._following: tuple[Arrival, OpenBlob] | None = None
        self._piece: tuple[int, bytes] = (-1, b"")
        self._took: set[Way] = set()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def is_verified(self) -> bool:
        inbound = self._inbound
        is_whole = inbound.committed is not None or inbound.passed is not None
        return is_whole and self._condemned() is None

    async def wait_verified(self) -> None:
        while True:
            change = self._inbound.change()
            if self._committed() is not None or self._inbound.passed is not None:
                return
            await change.wait()

    async def span(self, offset: int) -> Span | None:
        """Pieces of the swarm are in no file yet (design.md §4.3)."""
        committed = self._committed()
        if committed is not None:
            return await committed.span(offset)
        way = self._inbound.way
        if isinstance(way, Arrival) and (offset < self._size_bytes - 1 or self._inbound.passed is not None):
            with contextlib.suppress(ImagedistError):  # this way has ended: read() waits for the next
                span = await (await self._follow(way)).span(offset)
                if span is not None:
                    self._note(way)
                return span
        return None

    def _condemned(self) -> IntegrityError | None:
        return next((error for way, error in self._inbound.condemned.items() if way in self._took), None)

    def _note(self, way: Way) -> None:
        self._took.add(way)
        self._inbound.gave.add(way)

    def _committed(self) -> OpenBlob | None:
        """
        Raises:
            ImagedistError: the blob will not come, or this reader has bytes of another one.
        """
        inbound = self._inbound
        if inbound.failure:
            raise inbound.failure.with_traceback(None)
        if (condemned := self._condemned()) is not None:
            raise condemned.with_traceback(None)
        return inbound.committed

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        inbound = self._inbound
        while offset < self._size_bytes:
            change = inbound.change()
            committed = self._committed()
            if committed is not None:
                return await committed.read(offset, limit_bytes)
            held_bytes = 1 if inbound.passed is None else 0
            allowed_bytes = min(limit_bytes, self._size_bytes - held_bytes - offset)
            if inbound.way is not None and allowed_bytes > 0:
                try:
                    return await self._read_from(inbound.way, offset, allowed_bytes)
                except ImagedistError:
                    pass  # this way has ended; whoever brings the blob announces another one, or the failure
            await change.wait()
        return b""

    async def _read_from(self, way: Way, offset: int, limit_bytes: int) -> bytes:
        if isinstance(way, Arrival):
            chunk = await (await self._follow(way)).read(offset, limit_bytes)
        else:
            index, start = divmod(offset, way.piece_length)
            if self._piece[0] != index:
                self._piece = (index, await way.piece(index))
            chunk = self._piece[1][start : start + limit_bytes]
        self._note(way)
        return chunk

    async def _follow(self, arrival: Arrival) -> OpenBlob:
        if self._following is None or self._following[0] is not arrival:
            await self._unfollow()
            self._following = (arrival, await arrival.open())
        return self._following[1]

    async def _unfollow(self) -> None:
        self._piece = (-1, b"")
        following, self._following = self._following, None
        if following is not None:
            await following[1].close()

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await self._unfollow()
        await self._inbound.leave()
