"""A blob by HTTP from the site's proxies, into the cache or, without room, straight to its readers."""

from __future__ import annotations

import asyncio
import hashlib
import os
from io import FileIO
from typing import NamedTuple, Self

from imagedist.distribution.backend import Target
from imagedist.fetch.inbound import Inbound
from imagedist.fetch.received import Received
from imagedist.site import Site
from imagedist.store.arrival import Arrival
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.files import HASH_STEP_BYTES
from imagedist.store.writer import BlobWriter
from imagedist.threads import settled


class Prefix(NamedTuple):
    """The first bytes of a file."""

    size_bytes: int
    sha256: bytes

    @classmethod
    def of(cls, file: FileIO, limit_bytes: int | None = None) -> Self:
        """Closes the file. Blocking."""
        hasher, size_bytes = hashlib.sha256(), 0
        with file:
            while limit_bytes is None or size_bytes < limit_bytes:
                step_bytes = HASH_STEP_BYTES if limit_bytes is None else min(HASH_STEP_BYTES, limit_bytes - size_bytes)
                if not (chunk := os.pread(file.fileno(), step_bytes, size_bytes)):
                    break
                hasher.update(chunk)
                size_bytes += len(chunk)
        return cls(size_bytes, hasher.digest())


class ByHttp:
    def __init__(self, store: BlobStore, site: Site, received: Received) -> None:
        self._store = store
        self._site = site
        self._received = received
        self._arrivals = Arrivals(store)

    async def bring(self, inbound: Inbound, target: Target, size_bytes: int) -> None:
        """
        Raises:
            NotFoundError, SourceError: the site does not give it. IntegrityError: wrong bytes. StorageError.
        """
        await self.finish(inbound, await self.begin(inbound, target, size_bytes))

    async def take(self, inbound: Inbound, content: bytes) -> None:
        """A small blob, all of which is here. Raises as ``bring``."""

        async def fetch(writer: BlobWriter) -> None:
            await writer.begin(len(content))
            await writer.write(content[writer.offset :])
            self._received.count("proxy", len(content))

        inbound.learn_size(len(content))
        arrival = await self._arrivals.join(inbound.digest, len(content), fetch)
        inbound.take(arrival)
        await self.finish(inbound, arrival)

    async def begin(self, inbound: Inbound, target: Target, size_bytes: int) -> Arrival:
        """From now on its readers get what comes."""
        loop = asyncio.get_running_loop()

        async def fetch(writer: BlobWriter) -> None:
            def take(chunk: bytes | memoryview) -> None:
                writer.append(chunk)
                loop.call_soon_threadsafe(self._received.count, "proxy", len(chunk))

            await writer.begin(size_bytes)
            await self._site.deliver(target, inbound.digest, size_bytes, writer.offset, take, writer.threads)

        inbound.learn_size(size_bytes)
        arrival = await self._arrivals.join(inbound.digest, size_bytes, fetch)
        inbound.take(arrival)
        return arrival

    async def finish(self, inbound: Inbound, arrival: Arrival) -> None:
        """Returns when all of it came and is right. Raises as ``bring``."""
        await arrival.wait_verified()
        if not arrival.is_committed:
            for way in inbound.gave - {arrival}:
                inbound.condemn(way, "no room to check the first bytes of")
            inbound.pass_on(arrival)

    async def abandon(self, arrival: Arrival) -> Prefix | None:
        """Stops it and drops what came: the blob goes on another way. None: too late, the blob is in the cache."""
        file = await self._arrivals.abandon(arrival)
        return None if file is None else await settled(asyncio.to_thread(Prefix.of, file))

    async def check(self, inbound: Inbound, arrival: Arrival, prefix: Prefix) -> None:
        """Whoever began with what was abandoned has a right whole only if those were the blob's first bytes."""
        if inbound.passed is None and arrival in inbound.gave:
            file = await settled(asyncio.to_thread(FileIO, self._store.path(inbound.digest)), FileIO.close)
            whole = await settled(asyncio.to_thread(Prefix.of, file, prefix.size_bytes))
            if whole != prefix or prefix.size_bytes < arrival.present_bytes:
                inbound.condemn(arrival, "the site sent other bytes than those of")

    async def close(self) -> None:
        await self._arrivals.close()
