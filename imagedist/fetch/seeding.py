"""What a node's session has of its cache: links for libtorrent, kept torrents, and which blobs are seeded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from imagedist.config import SeedingTable
from imagedist.errors import ImagedistError, IntegrityError, StorageError, storage_error
from imagedist.fetch.seeds import Seeds
from imagedist.fetch.unfinished import KEPT_SECONDS, Unfinished
from imagedist.metrics import BYTES_GIVEN, SEEDING_ENDED, SEEDS
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.swarm.expected import expect_torrent
from imagedist.swarm.session import SwarmSession, Transfer

_LOG = logging.getLogger(__name__)

_TICK_SECONDS = 5.0
_JOURNAL_SECONDS = 60.0
"""A killed process has forgotten what was given, and asked for, in the last minute."""


class Seeding:
    """``swarm/`` holds what the session reads and writes: a finished and checked file is linked into the cache, never
    renamed under libtorrent. ``torrents/`` holds the torrents of what is seeded, of what was and is still in the
    cache, and of what is on its way or unfinished. ``seeds.json`` tells the next process since when, and how much of
    it was given.

    Args:
        trackers: announce URLs of the site's seeders.
        table: until when a blob is seeded (``seeds.Seeds``).
        clock: seconds since the epoch; injected by tests.
        kept_seconds: how long pieces of unfinished blobs are kept.

    Raises:
        StorageError: the directories cannot be read. That is slow: construct it in a thread.
    """

    def __init__(
        self,
        store: BlobStore,
        session: SwarmSession,
        trackers: Sequence[str],
        table: SeedingTable = SeedingTable(),
        clock: Callable[[], float] = time.time,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._store = store
        self._session = session
        self._trackers = tuple(trackers)
        self._swarm = store.root / "swarm"
        self._torrents = store.root / "torrents"
        self._journal = store.root / "seeds.json"
        self._seeds = Seeds(table, clock)
        self._given: Counter[Digest] = Counter()
        self._changing = asyncio.Lock()
        """Whoever seeds a blob again must not lose its link to whoever has just let it go."""
        self.given_bytes = 0
        self._unfinished = Unfinished(store, kept_seconds)
        self._cached = self._leftovers()

    def _leftovers(self) -> list[tuple[Digest, bytes]]:
        """What can be seeded at once; sorts what an earlier process left on its way."""
        try:
            for folder in (self._swarm, self._torrents):
                folder.mkdir(parents=True, exist_ok=True)
            for path in self._swarm.iterdir():
                digest = Digest.of_name("sha256", path.name)
                if digest is not None and not self._store.has(digest):
                    self._unfinished.keep(digest, path)
            cached = []
            for path in sorted(self._torrents.glob("*.torrent")):
                digest = Digest.of_name("sha256", path.stem)
                if digest is None:
                    continue
                if self._store.has(digest):
                    cached.append((digest, path.read_bytes()))
                elif not self._unfinished.has(digest):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("prepare the blob cache", error) from error
        try:
            self._seeds.load(self._journal.read_bytes(), [digest for digest, _ in cached])
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _LOG.warning(
                "%s is of no use, so all that is cached is seeded as if it had just come: %s", self._journal, error
            )
        return cached

    async def start(self) -> None:
        """Seeds again what the cache holds, as far as its time is not over."""
        cached, self._cached = self._cached, []
        for digest, torrent in cached:
            if not self._seeds.is_over(digest):
                with contextlib.suppress(IntegrityError, StorageError):
                    self._seeds.began(digest, expect_torrent(torrent, digest).size_bytes)
        self._seeds.end()
        for digest, torrent in cached:
            if not self._seeds.is_over(digest):
                with contextlib.suppress(IntegrityError, StorageError):
                    await self.seed(digest, torrent)

    async def keep_bounds(self) -> None:
        """Counts what is given and ends what was seeded for long enough, for ever."""
        loop = asyncio.get_running_loop()
        written_at = loop.time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self.tick()
            if loop.time() - written_at >= _JOURNAL_SECONDS:
                written_at = loop.time()
                await self._write_journal()

    async def tick(self) -> None:
        """Once. What ends leaves the session; file and torrent stay, to be seeded again when it is asked for here."""
        for transfer in self._session.transfers():
            self._count_given(transfer)
        for digest, cause in self._seeds.end():
            SEEDING_ENDED.labels(cause=cause).inc()
            _LOG.info("not seeding %s any more: %s", digest, cause)
            try:
                await self._leave(digest)
            except ImagedistError as error:
                _LOG.warning("%s", error)
        SEEDS.set(len(self._seeds))

    def asked(self, digest: Digest) -> bool:
        """Somebody on this node wants a blob of the cache: its time begins anew. True: it was over, ``seed_again``."""
        return self._seeds.asked(digest)

    async def seed_again(self, digest: Digest) -> None:
        try:
            torrent = await asyncio.to_thread(self._torrent(digest).read_bytes)
            await self.seed(digest, torrent)
        except (OSError, ImagedistError) as error:
            _LOG.info("not seeding %s again: %s", digest, error)

    def _count_given(self, transfer: Transfer) -> None:
        uploaded_bytes = transfer.status().uploaded_bytes
        new_bytes = uploaded_bytes - self._given[transfer.digest]
        if new_bytes > 0:
            self._given[transfer.digest] = uploaded_bytes
            self._seeds.given(transfer.digest, new_bytes)
            self.given_bytes += new_bytes
            BYTES_GIVEN.inc(new_bytes)

    def path(self, digest: Digest) -> Path:
        """Where the session writes a blob."""
        return self._swarm / digest.hex

    async def has_unfinished(self, digest: Digest) -> bool:
        return await asyncio.to_thread(self._unfinished.has, digest)

    async def kept_torrent(self, digest: Digest) -> bytes | None:
        """Of an unfinished blob, when the site cannot be asked."""
        if await self.has_unfinished(digest):
            with contextlib.suppress(OSError):
                return await asyncio.to_thread(self._torrent(digest).read_bytes)
        return None

    async def join(self, digest: Digest, torrent: bytes, *, unannounced: bool = False) -> Transfer:
        """Begins to fetch a blob, with the pieces that were left of it. Raises as ``SwarmSession.add``.

        Args:
            unannounced: beside a stream by HTTP. Nobody is told, so that nobody sends what will be given first; to be
                joined again. The stream's own file stays, even if it broke off this moment.
        """
        if self._session.get(digest) is None:
            await asyncio.to_thread(self._unfinished.give, digest, self.path(digest), with_stream=not unannounced)
            await asyncio.to_thread(self._keep, digest, torrent)
        return await self._session.add(torrent, self._swarm, trackers=() if unannounced else self._trackers)

    async def seed(self, digest: Digest, torrent: bytes) -> None:
        """Seeds a blob of the cache; the torrent came from the site and names exactly this file.

        Raises:
            IntegrityError: not a torrent of ours. StorageError.
        """
        if self._session.get(digest) is not None or not self._store.has(digest):
            return
        expect_torrent(torrent, digest)
        async with self._changing:
            if self._session.get(digest) is None:
                await asyncio.to_thread(self._link, digest)
                await self._session.add(torrent, self._swarm, trackers=self._trackers, seeding=True)
        await self.keep(digest, torrent)
        if not self._store.has(digest):  # evicted meanwhile
            await self.drop(digest)

    async def keep(self, digest: Digest, torrent: bytes) -> None:
        """Keeps the torrent of what is seeded from now on."""
        await asyncio.to_thread(self._keep, digest, torrent)
        if (transfer := self._session.get(digest)) is not None:
            self._seeds.began(digest, transfer.size_bytes)

    async def drop(self, digest: Digest) -> None:
        """Takes a blob out of the session, and what it wrote."""
        self._seeds.forget(digest)
        await self._leave(digest)
        await self._unlink(digest, self._torrent(digest))

    async def close(self) -> None:
        """Tells the next process; whoever ran ``keep_bounds`` has ended it."""
        for transfer in self._session.transfers():
            self._count_given(transfer)
        await self._write_journal()

    async def _leave(self, digest: Digest) -> None:
        async with self._changing:
            if (transfer := self._session.get(digest)) is not None:
                self._count_given(transfer)
            await self._session.remove(digest)
            self._given.pop(digest, None)
            await self._unlink(digest, self.path(digest))

    async def _unlink(self, digest: Digest, path: Path) -> None:
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise storage_error(f"stop seeding {digest}", error) from error

    def _torrent(self, digest: Digest) -> Path:
        return self._torrents / f"{digest.hex}.torrent"

    async def _write_journal(self) -> None:
        document = self._seeds.dump()
        aside = self._journal.with_name(f".{self._journal.name}")

        def write() -> None:
            aside.write_bytes(document)
            aside.rename(self._journal)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            _LOG.warning("cannot write %s: %s", self._journal, error)

    def _link(self, digest: Digest) -> None:
        try:
            self.path(digest).unlink(missing_ok=True)
            os.link(self._store.path(digest), self.path(digest))
        except OSError as error:
            raise storage_error(f"link {digest} for seeding", error) from error

    def _keep(self, digest: Digest, torrent: bytes) -> None:
        aside = self._torrents / f".{digest.hex}"
        try:
            aside.write_bytes(torrent)
            aside.rename(self._torrent(digest))
        except OSError as error:
            raise storage_error(f"keep the torrent of {digest}", error) from error
