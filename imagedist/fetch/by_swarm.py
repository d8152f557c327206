"""A blob by the swarm: piece by piece from peers, under watch, and by HTTP when that fails."""

from __future__ import annotations

import asyncio
import logging

from imagedist.distribution.backend import Target
from imagedist.errors import FullError, ImagedistError, IntegrityError, SourceError
from imagedist.fetch.by_http import ByHttp
from imagedist.fetch.inbound import Inbound
from imagedist.fetch.received import Received
from imagedist.fetch.seeding import Seeding
from imagedist.fetch.watch import Patience, Watch
from imagedist.metrics import FAILURES
from imagedist.site import Site
from imagedist.site.web_seeds import WebSeed
from imagedist.store.arrival import Arrival
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.swarm.expected import expect_torrent
from imagedist.swarm.session import Transfer
from imagedist.swarm.torrent import build

_LOG = logging.getLogger(__name__)


class BySwarm:
    """
    Args:
        by_http: what is left when the swarm fails.
    """

    def __init__(
        self,
        store: BlobStore,
        private: PrivateBlobs,
        site: Site,
        seeding: Seeding,
        received: Received,
        patience: Patience,
        by_http: ByHttp,
    ) -> None:
        self._store = store
        self._private = private
        self._site = site
        self._seeding = seeding
        self._received = received
        self._patience = patience
        self._by_http = by_http

    async def bring(self, inbound: Inbound, target: Target, torrent: bytes) -> None:
        """
        Raises:
            SourceError, IntegrityError: no way led here. StorageError.
        """
        try:
            await self._bring(inbound, target, torrent)
        except ImagedistError as error:
            await self._seeding.drop(inbound.digest)
            if not isinstance(error, SourceError | IntegrityError | FullError):
                raise
            FAILURES.labels(source="swarm", cause=type(error).__name__).inc()
            _LOG.warning("the swarm failed for %s, going on by HTTP: %s", inbound.digest, error)
            failed = inbound.way
            await self._by_http.bring(inbound, target, await self._site.blob_size(target, inbound.digest))
            if failed in inbound.gave and inbound.passed is None and not isinstance(failed, Arrival):
                await self._check_pieces(inbound, failed, torrent)

    async def _bring(self, inbound: Inbound, target: Target, torrent: bytes) -> None:
        facts = await asyncio.to_thread(expect_torrent, torrent, inbound.digest)

        async def web_seed() -> WebSeed | None:
            is_private = self._private.has(inbound.digest)
            return await self._site.web_seeds.of(target, inbound.digest, is_private=is_private)

        # What is arriving counts, as it does by HTTP; adopt() promises the room anew.
        async with self._store.space.promise(facts.size_bytes, f"blob {inbound.digest}"):
            transfer = await self._seeding.join(inbound.digest, torrent)
            inbound.learn_size(transfer.size_bytes)
            inbound.take(transfer)
            await Watch(self._patience, self._received, web_seed).completion(transfer)
        await self._store.adopt(self._seeding.path(inbound.digest), inbound.digest, transfer.size_bytes)
        await self._seeding.keep(inbound.digest, torrent)

    async def _check_pieces(self, inbound: Inbound, failed: Transfer, torrent: bytes) -> None:
        """Whoever read pieces and goes on by HTTP has a right whole only if the torrent was of this very blob."""
        digest = inbound.digest
        if await asyncio.to_thread(build, self._store.path(digest), digest) != torrent:
            inbound.condemn(failed, "the site's torrent is of other bytes than those of")
