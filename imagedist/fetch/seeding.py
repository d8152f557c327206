"""What a node's session has of its cache: links for libtorrent, kept torrents, and which blobs are seeded."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from imagedist.errors import IntegrityError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.store.blobs import BlobStore
from imagedist.swarm.session import SwarmSession, Transfer
from imagedist.swarm.torrent import TorrentFacts, parse


class Seeding:
    """``swarm/`` holds what the session reads and writes: a finished and checked file is linked into the cache, never
    renamed under libtorrent. ``torrents/`` holds the torrents of what is seeded.

    Args:
        trackers: announce URLs of the site's seeders.

    Raises:
        StorageError: the directories cannot be read. That is slow: construct it in a thread.
    """

    def __init__(self, store: BlobStore, session: SwarmSession, trackers: Sequence[str]) -> None:
        self._store = store
        self._session = session
        self._trackers = tuple(trackers)
        self._swarm = store.root / "swarm"
        self._torrents = store.root / "torrents"
        self._cached = self._leftovers()

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

    async def start(self) -> None:
        """Seeds again what the cache holds."""
        cached, self._cached = self._cached, []
        for digest, torrent in cached:
            with contextlib.suppress(IntegrityError, StorageError):
                await self.seed(digest, torrent)

    def path(self, digest: Digest) -> Path:
        """Where the session writes a blob."""
        return self._swarm / digest.hex

    async def join(self, torrent: bytes) -> Transfer:
        """Begins to fetch a blob. Raises as ``SwarmSession.add``."""
        return await self._session.add(torrent, self._swarm, trackers=self._trackers)

    async def seed(self, digest: Digest, torrent: bytes) -> None:
        """Seeds a blob of the cache; the torrent came from the site and names exactly this file.

        Raises:
            IntegrityError: not a torrent of ours. StorageError.
        """
        if self._session.get(digest) is not None or not self._store.has(digest):
            return
        expect(torrent, digest)
        await asyncio.to_thread(self._link, digest)
        await self._session.add(torrent, self._swarm, trackers=self._trackers, seeding=True)
        await self.keep(digest, torrent)
        if not self._store.has(digest):  # evicted meanwhile
            await self.drop(digest)

    async def keep(self, digest: Digest, torrent: bytes) -> None:
        """Keeps the torrent for the next process."""
        await asyncio.to_thread(self._keep, digest, torrent)

    async def drop(self, digest: Digest) -> None:
        """Takes a blob out of the session, and what it wrote."""
        await self._session.remove(digest)
        try:
            for path in (self.path(digest), self._torrents / f"{digest.hex}.torrent"):
                await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise storage_error(f"stop seeding {digest}", error) from error

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
            aside.rename(self._torrents / f"{digest.hex}.torrent")
        except OSError as error:
            raise storage_error(f"keep the torrent of {digest}", error) from error


def expect(torrent: bytes, digest: Digest) -> TorrentFacts:
    """
    Raises:
        IntegrityError: it is not a torrent of ours, or of another blob.
    """
    facts = parse(torrent)
    if facts.digest != digest:
        raise IntegrityError(f"the site sent a torrent of {facts.digest} for {digest}")
    return facts
