"""The blobs of a node: its cache, what is on its way, and what it seeds (design.md §4.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from imagedist.config import SeedingTable
from imagedist.distribution.backend import Target
from imagedist.errors import ImagedistError, NotFoundError, SourceError
from imagedist.fetch.grants import Grants
from imagedist.fetch.handover import Pace
from imagedist.fetch.inbound import Inbound, InboundReader
from imagedist.fetch.received import Received
from imagedist.fetch.seeding import Seeding
from imagedist.fetch.unfinished import KEPT_SECONDS
from imagedist.fetch.watch import Patience
from imagedist.fetch.ways import Answer, Ways
from imagedist.metrics import FAILURES
from imagedist.oci.digest import Digest
from imagedist.site import Site
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.store.reading import OpenBlob
from imagedist.swarm.session import SwarmSession

_LOG = logging.getLogger(__name__)

_PATIENCE = Patience()
_PACE = Pace()
_SITE = "site"
"""The owner of every private blob here: the site knows whose it is."""


class NodeBlobs:
    """Brings each blob to this node once, however many ask, and seeds what it has.

    Args:
        root, quota_bytes: of the verified cache.
        trackers: announce URLs of the site's seeders.
        seeding: what is seeded, and until when.
        kept_seconds: how long pieces of unfinished blobs are kept over restarts.

    Raises:
        StorageError: the cache cannot be opened. Reading its directories is slow: construct it in a thread.
    """

    def __init__(
        self,
        root: Path,
        quota_bytes: int | None,
        site: Site,
        session: SwarmSession,
        trackers: Sequence[str],
        patience: Patience = _PATIENCE,
        seeding: SeedingTable = SeedingTable(),
        pace: Pace = _PACE,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        # A disk that is nearly full is told before a piece of the swarm comes, so that the blob is passed on instead.
        self._store = store = BlobStore(root, quota_bytes, headroom_bytes=None, may_evict=self._let_go)
        self._private = PrivateBlobs(store)
        store.removed.append(self._private.forget)
        self._grants = Grants(site.blob_size)
        self._site = site
        self._seeding = Seeding(store, session, trackers, seeding, kept_seconds=kept_seconds)
        self._received = Received()
        self._ways = Ways(store, self._private, site, self._seeding, self._received, patience, pace, self._learn)
        self._inbound: dict[Digest, Inbound] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def store(self) -> BlobStore:
        """What is committed here."""
        return self._store

    @property
    def received_bytes(self) -> Counter[str]:
        """By source, since the start."""
        return self._received.by_source

    async def start(self) -> None:
        """Seeds again what the cache holds."""
        await self._seeding.start()
        self._spawn(self._seeding.keep_bounds())

    @property
    def given_bytes(self) -> int:
        """To peers, since the start."""
        return self._seeding.given_bytes

    async def open(self, target: Target, digest: Digest) -> OpenBlob:
        """The blob, committed or on its way; the caller closes it.

        Raises:
            NotFoundError: nobody has it. ChallengeError: not for this asker. SourceError: the site cannot be reached.
            StorageError.
        """
        if self._store.has(digest):
            await self._check_may_have(target, digest)
        with contextlib.suppress(NotFoundError):
            cached = await self._store.open(digest)
            if self._seeding.asked(digest):
                self._spawn(self._seeding.seed_again(digest))
            return cached
        inbound = self._inbound.get(digest)
        if inbound is None or not inbound.is_open_to_all:
            inbound = self._inbound[digest] = Inbound(digest)
            self._spawn(self._bring(inbound, target))
        inbound.join()
        try:
            size_bytes = await inbound.known_size()
            await self._check_may_have(target, digest)  # another asker's credentials may have brought it here
        except BaseException:
            await inbound.leave()
            raise
        return InboundReader(inbound, size_bytes)

    async def size_bytes(self, target: Target, digest: Digest) -> int:
        """The blob's length, without bringing it here."""
        if not self._private.has(digest):
            with contextlib.suppress(NotFoundError):
                return self._store.size_bytes(digest)
            inbound = self._inbound.get(digest)
            if inbound is not None and inbound.size_bytes is not None:
                return inbound.size_bytes
        return await self._site.blob_size(target, digest)

    async def _check_may_have(self, target: Target, digest: Digest) -> None:
        """Knowing a digest is not a grant: who may have a private blob, the site says."""
        if self._private.has(digest):
            await self._grants.check(target, digest)

    async def _learn(self, target: Target, digest: Digest, answer: Answer) -> None:
        """Before anyone can read the blob: whether it is private. The asker may have it."""
        if answer.is_private:
            self._grants.note(target, digest)
            await self._private.add(digest, _SITE)
        else:
            await self._private.lift(digest)

    async def _bring(self, inbound: Inbound, target: Target) -> None:
        try:
            if await self._ways.bring(inbound, target):
                self._spawn(self._ways.seed_when_possible(target, inbound.digest))
            if inbound.passed is None:
                await inbound.commit(await self._store.open(inbound.digest))
            else:
                await inbound.wait_left()
        except ImagedistError as error:
            FAILURES.labels(source="site", cause=type(error).__name__).inc()
            _LOG.warning("cannot bring %s: %s", inbound.digest, error)
            inbound.fail(error)
        except asyncio.CancelledError:
            inbound.fail(SourceError(f"the agent stopped while {inbound.digest} was on its way"))
            raise
        except Exception as error:
            _LOG.exception("cannot bring %s", inbound.digest)
            inbound.fail(SourceError(f"cannot bring {inbound.digest}: {error!r}"))
        finally:
            if self._inbound.get(inbound.digest) is inbound:
                del self._inbound[inbound.digest]

    async def _let_go(self, digest: Digest) -> bool:
        """Before the cache evicts a blob: stop seeding it and drop the session's link."""
        if digest in self._inbound:
            return False
        await self._seeding.drop(digest)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stops what is on its way; pieces and partial files are dropped at the next start."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._ways.close()
        await self._seeding.close()
