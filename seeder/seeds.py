"""What the site's seeder seeds: every blob the proxy committed and made a torrent of.

The proxy writes blobs and torrents; this side only reads them. So what is seeded needs no record of its own: after a
restart it is every ``torrents/<hex>.torrent`` whose blob is there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from aiohttp import web

from imagedist.errors import ImagedistError, InputError, NotFoundError, StorageError, storage_error
from imagedist.metrics import SEEDS
from imagedist.oci.digest import Digest
from imagedist.swarm import torrent as rules
from imagedist.swarm.expected import expect_torrent
from seeder.uploads import Part, UploadSession

_LOG = logging.getLogger(__name__)


class Seeds:
    """The seeder's torrents.

    Args:
        session: where they are seeded.
        site_blobs: the site's blob store: ``blobs/sha256/<hex>`` and ``torrents/<hex>.torrent``.
    """

    def __init__(self, session: UploadSession, site_blobs: Path) -> None:
        self._session = session
        self._blobs = site_blobs / "blobs" / "sha256"
        self._torrents = site_blobs / "torrents"
        self._known: dict[Digest, rules.TorrentFacts] = {}
        self._by_infohash: dict[bytes, Digest] = {}
        self._deleted_meanwhile: set[Digest] = set()
        self._changing = asyncio.Lock()
        self.is_restored = False
        self.session_id = secrets.token_hex(8)
        """Another one after each start: what we were told before is forgotten."""

    def __repr__(self) -> str:
        return f"<Seeds of {self._blobs}: {len(self._known)}>"

    @property
    def count(self) -> int:
        """Blobs that are seeded here."""
        return len(self._session.uploads())

    def is_seeding(self, short_infohash: bytes) -> bool:
        digest = self._by_infohash.get(short_infohash)
        upload = self._session.get(digest) if digest else None
        return upload is not None and upload.failure is None

    def knows(self, short_infohash: bytes) -> bool:
        """Whether it is a torrent of this site; until all that is in the store was read, any may be."""
        return not self.is_restored or short_infohash in self._by_infohash

    async def restore(self) -> None:
        """Seeds all that is in the store. One bad file is logged and does not keep the others from being seeded."""
        for path in await asyncio.to_thread(self._torrent_paths):
            try:
                digest = Digest.parse(f"sha256:{path.stem}")
                torrent = await asyncio.to_thread(_read_torrent, path)
                facts = await asyncio.to_thread(expect_torrent, torrent, digest)
                async with self._changing:
                    if digest not in self._deleted_meanwhile and digest not in self._known:
                        await self._seed(facts, Part())
            except NotFoundError:
                _LOG.info("not seeding %s: its blob is gone", path.stem)
            except ImagedistError as error:
                _LOG.warning("not seeding %s: %s", path, error)
        self.is_restored = True
        self._deleted_meanwhile.clear()
        _LOG.info("seeding %d blobs", len(self._session.uploads()))

    async def put(self, digest: Digest, torrent: bytes, part: Part = Part()) -> None:
        """Seeds a blob, or only knows it, if other seeders of the site are to seed it; again is fine.

        Raises:
            IntegrityError: not a torrent of ours, or that of another blob.
            NotFoundError: the blob is not in the store. StorageError: it has another size or cannot be read.
        """
        facts = await asyncio.to_thread(expect_torrent, torrent, digest)
        async with self._changing:
            self._deleted_meanwhile.discard(digest)
            await self._seed(facts, part)

    async def delete(self, digest: Digest) -> None:
        """Returns when the session let go of the blob: then the proxy may unlink it. Nothing to delete is fine."""
        if not self.is_restored:
            self._deleted_meanwhile.add(digest)
        async with self._changing:
            facts = self._known.pop(digest, None)
            if facts:
                # First, so that no peer is introduced to a seed that is going.
                del self._by_infohash[facts.short_infohash]
            self._session.remove(digest)
        SEEDS.set(len(self._session.uploads()))

    async def _seed(self, facts: rules.TorrentFacts, part: Part) -> None:
        digest = facts.digest
        if not await asyncio.to_thread((self._blobs / digest.hex).is_file):
            raise NotFoundError(f"cannot seed {digest}: it is not in {self._blobs}; fetch it by the proxy first")
        self._known[digest] = facts
        self._by_infohash[facts.short_infohash] = digest
        if part.rank < part.replicas:
            self._session.add(facts, self._blobs, part)
        else:
            self._session.remove(digest)
        SEEDS.set(len(self._session.uploads()))

    def describe(self) -> list[dict[str, object]]:
        """One JSON object per blob."""
        described: list[dict[str, object]] = []
        for upload in self._session.uploads():
            status = upload.status()
            facts = self._known.get(status.digest)
            described.append(
                {
                    "digest": str(status.digest),
                    "size_bytes": status.size_bytes,
                    "infohash": facts.infohash.hex() if facts else None,
                    "is_complete": status.is_complete,
                    "peers": status.peers,
                    "uploaded_bytes": status.uploaded_bytes,
                }
            )
        return described

    def _torrent_paths(self) -> list[Path]:
        try:
            return sorted(self._torrents.glob("*.torrent"))
        except OSError as error:
            raise storage_error(f"list {self._torrents}", error) from error


def _read_torrent(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            torrent = file.read(rules.MAX_TORRENT_BYTES + 1)
    except OSError as error:
        raise storage_error(f"read {path}", error) from error
    if not torrent:
        raise StorageError(f"{path} is empty; delete it, the proxy makes it anew")
    return torrent


SEEDS_KEY = web.AppKey("seeds", Seeds)


def add_seed_routes(app: web.Application) -> None:
    """Adds ``PUT|DELETE /site/v1/seeds/{digest}``, ``GET /site/v1/seeds`` and, for proxies that look whether we
    live and are still the same, ``GET /site/v1/seeding``, for the app's ``SEEDS_KEY``."""

    async def put(request: web.Request) -> web.Response:
        digest = _digest(request)
        await request.app[SEEDS_KEY].put(digest, await request.read(), _part(request))
        return web.Response(status=204)

    async def delete(request: web.Request) -> web.Response:
        await request.app[SEEDS_KEY].delete(_digest(request))
        return web.Response(status=204)

    async def describe(request: web.Request) -> web.Response:
        return web.json_response({"format": 1, "seeds": request.app[SEEDS_KEY].describe()})

    async def look(request: web.Request) -> web.Response:
        seeds = request.app[SEEDS_KEY]
        return web.json_response({"format": 1, "session": seeds.session_id, "seeds": seeds.count})

    app.add_routes(
        [
            web.put("/site/v1/seeds/{digest}", put),
            web.delete("/site/v1/seeds/{digest}", delete),
            web.get("/site/v1/seeds", describe),
            web.get("/site/v1/seeding", look),
        ]
    )


def _digest(request: web.Request) -> Digest:
    digest = Digest.parse(request.match_info["digest"])
    if digest.algorithm != "sha256":
        raise InputError(f"cannot seed {digest}: only sha256 blobs enter the swarm")
    return digest


def _part(request: web.Request) -> Part:
    """A proxy one version behind says nothing of it: then we seed."""
    try:
        part = Part(int(request.query.get("rank", "0")), int(request.query.get("replicas", "1")))
    except ValueError:
        part = Part(-1, 0)
    if part.rank < 0 or part.replicas < 1:
        raise InputError("bad rank or replicas: expected whole numbers, from 0 and from 1 on")
    return part
