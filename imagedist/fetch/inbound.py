"""One blob on its way to this node, by swarm or by HTTP, and the readers that follow it meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from imagedist.errors import ImagedistError, SourceError
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import OpenBlob
from imagedist.swarm.session import Transfer


class Inbound:
    """Which way a blob is coming at the moment. Readers look here again after every change of way."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.size_bytes: int | None = None
        self.way: Arrival | Transfer | None = None
        self.is_committed = False
        self.failure: ImagedistError | None = None
        self._changed = asyncio.Event()

    def learn_size(self, size_bytes: int) -> None:
        if self.size_bytes is None:
            self.size_bytes = size_bytes
            self._announce()

    def take(self, way: Arrival | Transfer | None) -> None:
        self.way = way
        self._announce()

    def commit(self) -> None:
        self.is_committed = True
        self._announce()

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
                raise self.failure
            await self._changed.wait()
        return self.size_bytes


class InboundReader:
    """An ``OpenBlob`` over an inbound blob: verified pieces from the swarm, or HTTP bytes as they arrive.

    Never gives the last byte before size and digest were checked (design.md §4.1).
    """

    def __init__(self, inbound: Inbound, size_bytes: int, store: BlobStore) -> None:
        self._inbound = inbound
        self._size_bytes = size_bytes
        self._store = store
        self._opened: OpenBlob | None = None
        self._opened_for: Arrival | None = None
        self._piece: tuple[int, bytes] = (-1, b"")

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def path(self) -> Path | None:
        return None

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        while offset < self._size_bytes:
            inbound = self._inbound
            change = inbound.change()
            if inbound.is_committed:
                return await (await self._committed()).read(offset, limit_bytes)
            if inbound.failure:
                raise inbound.failure
            try:
                if isinstance(inbound.way, Arrival):
                    return await (await self._following(inbound.way)).read(offset, limit_bytes)
                if inbound.way is not None and offset < self._size_bytes - 1:
                    return await self._verified(inbound.way, offset, limit_bytes)
            except SourceError:
                if inbound.way is None and inbound.failure is None and not inbound.is_committed:
                    raise
            await change.wait()  # another way, the commit, or the failure
        return b""

    async def _verified(self, transfer: Transfer, offset: int, limit_bytes: int) -> bytes:
        index, start = divmod(offset, transfer.piece_length)
        if self._piece[0] != index:
            self._piece = (index, await transfer.piece(index))
        withheld = self._size_bytes - 1 - offset
        return self._piece[1][start : start + min(limit_bytes, withheld)]

    async def _following(self, arrival: Arrival) -> OpenBlob:
        if self._opened is None or self._opened_for is not arrival:
            await self.close()
            self._opened, self._opened_for = await arrival.open(), arrival
        return self._opened

    async def _committed(self) -> OpenBlob:
        if self._opened is None or self._opened.path is None:
            await self.close()
            self._opened, self._opened_for = await self._store.open(self._inbound.digest), None
        return self._opened

    async def close(self) -> None:
        self._piece = (-1, b"")
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.close()
