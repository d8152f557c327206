"""How one blob comes to this node: by swarm or by HTTP, as the site says, and from one to the other meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from imagedist.distribution.backend import Target
from imagedist.errors import ImagedistError, SourceError
from imagedist.fetch.by_http import ByHttp
from imagedist.fetch.by_swarm import BySwarm
from imagedist.fetch.handover import Handover, Pace
from imagedist.fetch.inbound import Inbound
from imagedist.fetch.received import Received
from imagedist.fetch.seeding import Seeding
from imagedist.fetch.watch import Patience
from imagedist.oci.digest import Digest
from imagedist.site import Arriving, FoundTorrent, Site, SmallBlob
from imagedist.store.arrival import Arrival
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.swarm.expected import expect_torrent
from imagedist.swarm.torrent import TorrentError

_LOG = logging.getLogger(__name__)

_LONG_POLL_SECONDS = 20.0
_LONG_POLLS = 15
_TORRENT_POLLS = 30

Answer = FoundTorrent | Arriving | SmallBlob


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
        pace: Pace,
        learn: Callable[[Target, Digest, Answer], Awaitable[None]],
    ) -> None:
        self._store = store
        self._private = private
        self._site = site
        self._seeding = seeding
        self._pace = pace
        self._learn = learn
        self._by_http = ByHttp(store, site, received)
        self._by_swarm = BySwarm(store, private, site, seeding, received, patience, self._by_http)

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
        answer = await self._ask(inbound, target)
        if isinstance(answer, SmallBlob):
            await self._by_http.take(inbound, answer.content)
            return False
        for _ in range(_LONG_POLLS):
            if isinstance(answer, FoundTorrent):
                break
            inbound.learn_size(answer.size_bytes)
            if answer.action == "stream":
                return await self._stream(inbound, target, answer.size_bytes, answer)
            answer = await self._site.torrent(target, inbound.digest, wait_seconds=_LONG_POLL_SECONDS)
        if isinstance(answer, Arriving):  # the site never let us go: do not wait for ever
            await self._by_http.bring(inbound, target, answer.size_bytes)
            return False
        if (size_bytes := await self._streamed_bytes(inbound.digest, answer)) is not None:
            return await self._stream(inbound, target, size_bytes, answer)
        await self._by_swarm.bring(inbound, target, answer.content)
        return False

    async def _ask(self, inbound: Inbound, target: Target) -> Answer:
        try:
            answer = await self._site.way(target, inbound.digest)
        except SourceError:
            kept = await self._seeding.kept_torrent(inbound.digest)
            if kept is None or self._private.has(inbound.digest):
                raise
            return FoundTorrent(kept)  # the site cannot be asked, but peers may have the rest
        await self._learn(target, inbound.digest, answer)
        return answer

    async def _streamed_bytes(self, digest: Digest, answer: FoundTorrent) -> int | None:
        """The size of a blob that is better streamed, though it has a torrent. None: by the swarm, as the site says, or
        as some of it is here, or enough others want it.

        That other nodes have it is no reason: whoever reads from the first byte on has 50 MB at 1 Gbit/s by HTTP after
        0.42 s, from two seeds after 0.54, and most of it only then, for the pieces do not come in order. ``skopeo
        copy`` took 1.3 s instead of 0.9.
        """
        if answer.action != "stream" or await self._seeding.has_unfinished(digest):
            return None
        try:
            facts = await asyncio.to_thread(expect_torrent, answer.content, digest)
            counts = await self._site.seeders.scrape(facts.short_infohash)
        except TorrentError:
            return None  # refused there again, and HTTP has the blob
        except SourceError:
            return facts.size_bytes  # no tracker, no swarm
        return None if counts.leechers >= self._pace.others else facts.size_bytes

    async def _stream(self, inbound: Inbound, target: Target, size_bytes: int, answer: Answer) -> bool:
        """By HTTP at once; by the swarm as soon as that is better, or when HTTP breaks off. Returns as ``bring``."""
        arrival = await self._by_http.begin(inbound, target, size_bytes)
        if isinstance(answer, Arriving) and not answer.is_swarm:
            await self._by_http.finish(inbound, arrival)
            return False

        async def find_torrent() -> bytes | None:
            return known or await self._torrent(target, inbound.digest)

        known = answer.content if isinstance(answer, FoundTorrent) else None
        handover = Handover(inbound.digest, arrival, self._seeding, self._pace, find_torrent, self._site.seeders.scrape)
        prefix = None
        try:
            torrent = await self._until_handed(inbound, arrival, handover, known)
            if torrent is not None and (prefix := await self._by_http.abandon(arrival)) is not None:
                await self._by_swarm.bring(inbound, target, torrent)
                await self._by_http.check(inbound, arrival, prefix)
            elif torrent is not None:
                await self._by_http.finish(inbound, arrival)  # all of it came in this moment
        finally:
            if prefix is None and handover.has_joined:
                await self._seeding.drop(inbound.digest)
        return prefix is None

    async def _until_handed(
        self, inbound: Inbound, arrival: Arrival, handover: Handover, known: bytes | None
    ) -> bytes | None:
        """The torrent by which the blob is to go on; None: all of it came by HTTP. Raises as that.

        Args:
            known: its torrent, if the site has told it already.
        """
        streaming = asyncio.create_task(self._by_http.finish(inbound, arrival))
        handing = asyncio.create_task(handover.run())
        try:
            await asyncio.wait([streaming, handing], return_when=asyncio.FIRST_COMPLETED)
            if handing.done() and handing.result():
                return handover.torrent
            try:
                await streaming
            except SourceError as error:
                torrent = handover.torrent or known
                if torrent is None:
                    raise
                _LOG.warning("going on by the swarm with %s: %s", inbound.digest, error)
                return torrent
            return None
        finally:
            for task in (streaming, handing):
                task.cancel()
            await asyncio.gather(streaming, handing, return_exceptions=True)
            await handover.end()

    async def _torrent(self, target: Target, digest: Digest) -> bytes | None:
        """Once the site has it; None: it will not, or has had none for minutes."""
        for _ in range(_TORRENT_POLLS):
            answer = await self._site.torrent(target, digest, wait_seconds=_LONG_POLL_SECONDS, is_streaming=True)
            if isinstance(answer, FoundTorrent):
                return answer.content
            if not answer.is_swarm:
                break
            await asyncio.sleep(self._pace.linger)  # an older site does not hold such answers back
        return None

    async def seed_when_possible(self, target: Target, digest: Digest) -> None:
        """A node that took a blob by HTTP becomes a seed the moment the torrent exists."""
        try:
            torrent = await self._torrent(target, digest)
            if torrent is not None:
                await self._seeding.seed(digest, torrent)
        except ImagedistError as error:
            _LOG.info("not seeding %s: %s", digest, error)

    async def close(self) -> None:
        await self._by_http.close()
