"""How one blob comes to this node: as the site says, by swarm or by HTTP, and by HTTP when the swarm fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from imagedist.distribution.backend import Target
from imagedist.errors import FullError, ImagedistError, IntegrityError, SourceError
from imagedist.fetch.inbound import Inbound
from imagedist.fetch.received import Received
from imagedist.fetch.seeding import Seeding
from imagedist.fetch.watch import Patience, Watch
from imagedist.metrics import FAILURES
from imagedist.oci.digest import Digest
from imagedist.site import Arriving, FoundTorrent, Site
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.store.writer import BlobWriter
from imagedist.swarm.expected import expect_torrent
from imagedist.swarm.torrent import build

_LOG = logging.getLogger(__name__)

_LONG_POLL_SECONDS = 20.0
_LONG_POLLS = 15
_SEED_ATTEMPTS = 30

Answer = FoundTorrent | Arriving


class Ways:
    """Both ways into the node's cache. Whoever reads meanwhile follows the ``Inbound``.

    Args:
        learn: is told the site's answer before anyone can read the blob.
    """

    def __init__(
        self,
        store: BlobStore,
        private: PrivateBlobs,
        site: Site,
        seeding: Seeding,
        received: Received,
        patience: Patience,
        learn: Callable[[Target, Digest, Answer], Awaitable[None]],
    ) -> None:
        self._store = store
        self._private = private
        self._site = site
        self._seeding = seeding
        self._received = received
        self._patience = patience
        self._learn = learn
        self._arrivals = Arrivals(store)

    async def bring(self, inbound: Inbound, target: Target) -> bool:
        """Brings the blob into the cache, or passes it on to its readers if there is no room.

        Returns:
            Whether the site will have a torrent of it that is not seeded here yet.

        Raises:
            NotFoundError: nobody has it. SourceError, IntegrityError, StorageError: no way led here.
        """
        if self._store.has(inbound.digest):  # committed between the asker's look and this one
            inbound.learn_size(self._store.size_bytes(inbound.digest))
            return False
        answer = await self._site.torrent(target, inbound.digest, wait_seconds=0)
        await self._learn(target, inbound.digest, answer)
        for _ in range(_LONG_POLLS):
            if not isinstance(answer, Arriving):
                break
            inbound.learn_size(answer.size_bytes)
            if answer.action == "stream":
                await self._by_http(inbound, target, answer.size_bytes)
                return answer.is_swarm
            answer = await self._site.torrent(target, inbound.digest, wait_seconds=_LONG_POLL_SECONDS)
        if isinstance(answer, Arriving):  # the site never let us go: do not wait for ever
            await self._by_http(inbound, target, answer.size_bytes)
            return False
        try:
            await self._by_swarm(inbound, target, answer.content)
        except ImagedistError as error:
            await self._seeding.drop(inbound.digest)
            if not isinstance(error, SourceError | IntegrityError | FullError):
                raise
            FAILURES.labels(source="swarm", cause=type(error).__name__).inc()
            _LOG.warning("the swarm failed for %s, going on by HTTP: %s", inbound.digest, error)
            await self._by_http(inbound, target, await self._site.blob_size(target, inbound.digest))
            if inbound.gave_pieces and inbound.passed is None:
                await self._check_pieces(inbound, answer.content)
        return False

    async def _check_pieces(self, inbound: Inbound, torrent: bytes) -> None:
        """Whoever read pieces and goes on by HTTP has a right whole only if the torrent was of this very blob."""
        digest = inbound.digest
        if await asyncio.to_thread(build, self._store.path(digest), digest) != torrent:
            inbound.condemned = IntegrityError(f"the site's torrent of {digest} is of other bytes; ask again")

    async def _by_http(self, inbound: Inbound, target: Target, size_bytes: int) -> None:
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
        await arrival.wait_verified()
        if not arrival.is_committed:
            if inbound.gave_pieces:
                inbound.condemned = IntegrityError(f"no room to check the pieces of {inbound.digest}; ask again")
            inbound.pass_on(arrival)

    async def _by_swarm(self, inbound: Inbound, target: Target, torrent: bytes) -> None:
        facts = expect_torrent(torrent, inbound.digest)

        def web_seed() -> str | None:
            is_private = self._private.has(inbound.digest)
            return None if is_private else self._site.blob_url(target, inbound.digest)

        # What is arriving counts, as it does by HTTP; adopt() promises the room anew.
        async with self._store.space.promise(facts.size_bytes, f"blob {inbound.digest}"):
            transfer = await self._seeding.join(torrent)
            inbound.learn_size(transfer.size_bytes)
            inbound.take(transfer)
            await Watch(self._patience, self._received, web_seed).completion(transfer)
        await self._store.adopt(self._seeding.path(inbound.digest), inbound.digest, transfer.size_bytes)
        await self._seeding.keep(inbound.digest, torrent)

    async def seed_when_possible(self, target: Target, digest: Digest) -> None:
        """A first-wave node becomes a seed the moment the torrent exists."""
        for _ in range(_SEED_ATTEMPTS):
            try:
                answer = await self._site.torrent(target, digest, wait_seconds=_LONG_POLL_SECONDS)
                if isinstance(answer, FoundTorrent):
                    await self._seeding.seed(digest, answer.content)
                    return
            except ImagedistError as error:
                _LOG.info("not seeding %s: %s", digest, error)
                return

    async def close(self) -> None:
        await self._arrivals.close()
