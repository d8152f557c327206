"""The blobs of a node: its cache, what is on its way, and what it seeds (design.md §4.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagedist.distribution.backend import Target
from imagedist.errors import (
    FullError,
    ImagedistError,
    IntegrityError,
    NotFoundError,
    SourceError,
    StorageError,
    storage_error,
)
from imagedist.fetch.grants import Grants
from imagedist.fetch.inbound import Inbound, InboundReader
from imagedist.metrics import BYTES_BY_SOURCE, FAILURES
from imagedist.oci.digest import Digest
from imagedist.site import Arriving, FoundTorrent, Site
from imagedist.store.arrivals import Arrivals
from imagedist.store.blobs import BlobStore
from imagedist.store.privacy import PrivateBlobs
from imagedist.store.reading import OpenBlob
from imagedist.store.writer import BlobWriter
from imagedist.swarm.session import SwarmSession, Transfer
from imagedist.swarm.torrent import TorrentFacts, build, parse

_LOG = logging.getLogger(__name__)

_LONG_POLL_SECONDS = 20.0
_LONG_POLLS = 15
_SEED_ATTEMPTS = 30
_SITE = "site"
"""The owner of every private blob here: the site knows whose it is."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a node trusts in its swarm, in seconds.

    Args:
        stalled: no verified piece for this long: take the proxy's web seed as well.
        alone: the same without a single peer: on a LAN tracker and handshake take 0.2 s (20 MB in 0.21-0.28 s).
        hold: a web seed stays on at least this long, so that a slow swarm does not flap.
        give_up: not a byte for this long, web seed and all: go on by HTTP, where every proxy is tried.
        tick: how often to look.
    """

    stalled: float = 3.0
    alone: float = 1.0
    hold: float = 5.0
    give_up: float = 30.0
    tick: float = 0.5


_PATIENCE = Patience()


class NodeBlobs:
    """Brings each blob to this node once, however many ask, and seeds what it has.

    Args:
        root, quota_bytes: of the verified cache. ``root/swarm`` holds what the session writes: a finished
            and checked file is linked into the cache, never renamed under libtorrent.
        trackers: announce URLs of the site's seeders.

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
    ) -> None:
        # A disk that is nearly full is told before a piece of the swarm comes, so that the blob is passed on instead.
        self._store = store = BlobStore(root, quota_bytes, headroom_bytes=None, may_evict=self._let_go)
        self._private = PrivateBlobs(store)
        store.removed.append(self._private.forget)
        self._grants = Grants(site.blob_size)
        self._site = site
        self._session = session
        self._trackers = tuple(trackers)
        self._patience = patience
        self._arrivals = Arrivals(store)
        self._inbound: dict[Digest, Inbound] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._swarm = store.root / "swarm"
        self._torrents = store.root / "torrents"
        self.received_bytes: Counter[str] = Counter()
        self._cached = self._leftovers()

    async def start(self) -> None:
        """Seeds again what the cache holds."""
        cached, self._cached = self._cached, []
        for digest, torrent in cached:
            with contextlib.suppress(IntegrityError, StorageError):
                await self._seed(digest, torrent)

    def _leftovers(self) -> list[tuple[Digest, bytes]]:
        """What can be seeded at once; drops what an earlier process left unfinished."""
        try:
            for folder in (self._swarm, self._torrents):
                folder.mkdir(parents=True, exist_ok=True)
            cached = []
            for path in sorted(self._torrents.glob("*.torrent")):
                digest = Digest("sha256", path.stem)
                if self._store.has(digest):
                    cached.append((digest, path.read_bytes()))
                else:
                    path.unlink(missing_ok=True)
            for path in self._swarm.iterdir():
                if not self._store.has(Digest("sha256", path.name)):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("prepare the blob cache", error) from error
        return cached

    async def open(self, target: Target, digest: Digest) -> OpenBlob:
        """The blob, committed or on its way; the caller closes it.

        Raises:
            NotFoundError: nobody has it. ChallengeError: not for this asker. SourceError: the site cannot be reached.
            StorageError.
        """
        if self._store.has(digest):
            await self._check_may_have(target, digest)
        with contextlib.suppress(NotFoundError):
            return await self._store.open(digest)
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

    async def _learn(self, target: Target, digest: Digest, answer: FoundTorrent | Arriving) -> None:
        """Before anyone can read the blob: whether it is private. The asker may have it."""
        if answer.is_private:
            self._grants.note(target, digest)
            await self._private.add(digest, _SITE)
        else:
            await self._private.lift(digest)

    async def _bring(self, inbound: Inbound, target: Target) -> None:
        try:
            await self._by_any_way(inbound, target)
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

    async def _by_any_way(self, inbound: Inbound, target: Target) -> None:
        if self._store.has(inbound.digest):  # committed between the asker's look and this one
            inbound.learn_size(self._store.size_bytes(inbound.digest))
            return
        answer = await self._site.torrent(target, inbound.digest, wait_seconds=0)
        await self._learn(target, inbound.digest, answer)
        for _ in range(_LONG_POLLS):
            if not isinstance(answer, Arriving):
                break
            inbound.learn_size(answer.size_bytes)
            if answer.action == "stream":
                await self._by_http(inbound, target, answer.size_bytes)
                if answer.is_swarm:
                    self._spawn(self._seed_when_possible(target, inbound.digest))
                return
            answer = await self._site.torrent(target, inbound.digest, wait_seconds=_LONG_POLL_SECONDS)
        if isinstance(answer, Arriving):  # the site never let us go: do not wait for ever
            await self._by_http(inbound, target, answer.size_bytes)
            return
        try:
            await self._by_swarm(inbound, target, answer.content)
        except ImagedistError as error:
            await self._drop(inbound.digest)
            if not isinstance(error, SourceError | IntegrityError | FullError):
                raise
            FAILURES.labels(source="swarm", cause=type(error).__name__).inc()
            _LOG.warning("the swarm failed for %s, going on by HTTP: %s", inbound.digest, error)
            await self._by_http(inbound, target, await self._site.blob_size(target, inbound.digest))
            if inbound.gave_pieces and inbound.passed is None:
                await self._check_pieces(inbound, answer.content)

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
                loop.call_soon_threadsafe(self._count, "proxy", len(chunk))

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
        facts = _expect(torrent, inbound.digest)
        # What is arriving counts, as it does by HTTP; adopt() promises the room anew.
        async with self._store.space.promise(facts.size_bytes, f"blob {inbound.digest}"):
            transfer = await self._session.add(torrent, self._swarm, trackers=self._trackers)
            inbound.learn_size(transfer.size_bytes)
            inbound.take(transfer)
            await self._completion(transfer, target)
        await self._store.adopt(self._swarm / inbound.digest.hex, inbound.digest, transfer.size_bytes)
        await asyncio.to_thread(self._keep_torrent, inbound.digest, torrent)

    async def _completion(self, transfer: Transfer, target: Target) -> None:
        """Waits for it under watch. Raises as ``Transfer.wait_complete``, and SourceError when nothing moves."""
        completing = asyncio.create_task(transfer.wait_complete())
        watching = asyncio.create_task(self._watch(transfer, target))
        try:
            await asyncio.wait([completing, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (completing, watching):
                task.cancel()
            await asyncio.wait([completing, watching])
        if completing.cancelled():
            await watching
        else:
            await completing

    async def _watch(self, transfer: Transfer, target: Target) -> None:
        """Counts bytes by source; puts the web seed on when alone or stalled, and takes it off again.

        Raises:
            SourceError: nothing moves, web seed and all.
        """
        loop, patience = asyncio.get_running_loop(), self._patience
        counted: Counter[str] = Counter()
        present, by_peers, moved_at = 0, 0, loop.time()
        web_seed_since: float | None = None
        try:
            while True:
                await asyncio.sleep(patience.tick)
                status, now = transfer.status(), loop.time()
                self._count_new(status.received_bytes, counted)
                from_peers = status.received_bytes.get("peer", 0) + status.received_bytes.get("seeder", 0)
                if status.present_bytes > present or status.present_bytes == status.size_bytes:
                    moved_at = now  # all here: only the flush is missing
                if web_seed_since is None:
                    if now - moved_at >= (patience.stalled if status.peers else patience.alone):
                        if self._private.has(transfer.digest):
                            raise SourceError(f"nobody sends {transfer.digest}, and a web seed has no credentials")
                        web_seed_since = now
                        transfer.set_web_seed(self._site.blob_url(target, transfer.digest))
                elif from_peers > by_peers and now - web_seed_since >= patience.hold:
                    web_seed_since, moved_at = None, now
                    transfer.set_web_seed(None)
                elif now - moved_at >= patience.give_up and not status.download_rate:
                    raise SourceError(f"no byte of {transfer.digest} came for {patience.give_up:g} s")
                present, by_peers = status.present_bytes, from_peers
        finally:
            transfer.set_web_seed(None)
            self._count_new(transfer.status().received_bytes, counted)

    def _count_new(self, received: Mapping[str, int], counted: Counter[str]) -> None:
        for source, total in received.items():
            self._count(source, total - counted[source])
            counted[source] = total

    def _count(self, source: str, count_bytes: int) -> None:
        if count_bytes > 0:
            BYTES_BY_SOURCE.labels(source=source).inc(count_bytes)
            self.received_bytes[source] += count_bytes

    async def _seed_when_possible(self, target: Target, digest: Digest) -> None:
        """A first-wave node becomes a seed the moment the torrent exists."""
        for _ in range(_SEED_ATTEMPTS):
            try:
                answer = await self._site.torrent(target, digest, wait_seconds=_LONG_POLL_SECONDS)
                if isinstance(answer, FoundTorrent):
                    await self._seed(digest, answer.content)
                    return
            except ImagedistError as error:
                _LOG.info("not seeding %s: %s", digest, error)
                return

    async def _seed(self, digest: Digest, torrent: bytes) -> None:
        """Seeds a blob of the cache; the torrent came from the site and names exactly this file.

        Raises:
            IntegrityError: not a torrent of ours. StorageError.
        """
        if self._session.get(digest) is not None or not self._store.has(digest):
            return
        _expect(torrent, digest)
        await asyncio.to_thread(self._link_for_session, digest)
        await self._session.add(torrent, self._swarm, trackers=self._trackers, seeding=True)
        await asyncio.to_thread(self._keep_torrent, digest, torrent)
        if not self._store.has(digest):  # evicted meanwhile
            await self._drop(digest)

    def _link_for_session(self, digest: Digest) -> None:
        try:
            (self._swarm / digest.hex).unlink(missing_ok=True)
            os.link(self._store.path(digest), self._swarm / digest.hex)
        except OSError as error:
            raise storage_error(f"link {digest} for seeding", error) from error

    def _keep_torrent(self, digest: Digest, torrent: bytes) -> None:
        aside = self._torrents / f".{digest.hex}"
        try:
            aside.write_bytes(torrent)
            aside.rename(self._torrents / f"{digest.hex}.torrent")
        except OSError as error:
            raise storage_error(f"keep the torrent of {digest}", error) from error

    async def _let_go(self, digest: Digest) -> bool:
        """Before the cache evicts a blob: stop seeding it and drop the session's link."""
        if digest in self._inbound:
            return False
        await self._drop(digest)
        return True

    async def _drop(self, digest: Digest) -> None:
        await self._session.remove(digest)
        try:
            for path in (self._swarm / digest.hex, self._torrents / f"{digest.hex}.torrent"):
                await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise storage_error(f"stop seeding {digest}", error) from error

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
        await self._arrivals.close()


def _expect(torrent: bytes, digest: Digest) -> TorrentFacts:
    facts = parse(torrent)
    if facts.digest != digest:
        raise IntegrityError(f"the site sent a torrent of {facts.digest} for {digest}")
    return facts
