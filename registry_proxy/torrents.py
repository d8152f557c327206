"""The site routes around one blob: its torrent, made as soon as it is here, and the order to fetch it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagedist.config import ProxyTable
from imagedist.distribution.backend import Target
from imagedist.distribution.challenges import sent_authorization
from imagedist.distribution.rate import Cap
from imagedist.errors import FullError, InputError, storage_error
from imagedist.metrics import BYTES_SERVED
from imagedist.oci.digest import Digest
from imagedist.oci.reference import is_name
from imagedist.service import wait_unless_stopping
from imagedist.share import Share
from imagedist.site import ACTION_HEADER, BLOB_TYPE, PRIVATE_HEADER
from imagedist.store.arrival import Arrival
from imagedist.swarm.torrent import HEAD_BYTES, build, is_as_built
from registry_proxy.cache import SiteCache
from registry_proxy.flights import Flights
from registry_proxy.seeds import Seeds
from registry_proxy.turns import Turns
from registry_proxy.upstream import UpstreamRepository
from registry_proxy.wanting import Wanting
from registry_proxy.wave import Waves

_LOG = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 60.0
_BUILD_SECONDS = 1.0
"""How long even an impatient node is held when the blob is here: a torrent is made at about 1 GB/s."""
_MAX_WAITING = 20_000
_NODE_ID_LENGTH = 128
_MAX_INLINE_BYTES = 1 << 20


class _FetchOrder(BaseModel):
    """A seeder one version ahead says a higher ``format`` when its order must not be half understood."""

    model_config = ConfigDict(extra="ignore")

    format: int = Field(default=1, le=1)
    ns: str | None = None
    repo: str
    for_sync: bool = False
    bytes_per_second: int | None = Field(default=None, ge=1)
    """The cap on all that comes for sync alone, from now on."""


class Torrents:
    """Torrents of the site's blobs, kept in ``torrents/<hex>.torrent`` beside them."""

    def __init__(
        self, cache: SiteCache, seeds: Seeds, settings: ProxyTable, share: Share, rate: Cap | None = None
    ) -> None:
        self._cache = cache
        self._rate = rate
        self._seeds = seeds
        self._min_size_bytes = max(1, int(settings.swarm_min_size))
        self._directory = cache.store.root / "torrents"
        self._making: Flights[Digest, bytes] = Flights()
        self._turns = Turns(self._directory / ".turns")
        self._waiting = 0
        self._wanting = Wanting(settings.first_wave_nodes, asyncio.get_running_loop().time)
        self._waves = Waves(
            settings.first_wave_nodes,
            settings.first_wave_wait.total_seconds(),
            asyncio.get_running_loop().time,
            share.directory,
        )

        cache.store.removed.append(self._forget)
        self._drop_orphans()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/torrents/{digest}", self.get_torrent)
        app.router.add_post("/blobs/{digest}/fetch", self.fetch)

    async def close(self) -> None:
        await self._making.close()
        self._turns.close()

    async def get_torrent(self, request: web.Request) -> web.Response:
        """``GET /site/v1/torrents/{digest}?ns=&repo=&wait=S``: 200 with the torrent, or 202 with what to do meanwhile.

        ``&inline=N``: a blob that has no torrent, and N bytes at most, is the answer itself.
        ``&streaming``: the node streams already, and waits for nothing but the torrent.

        Raises (rendered as site errors):
            InputError: a malformed digest, repository or wait. NotFoundError: nobody has it.
            SourceError, IntegrityError, StorageError: the blob did not arrive.
        """
        digest = Digest.parse(request.match_info["digest"])
        authorization = sent_authorization(request)
        target = _target(request.query.get("ns"), request.query.get("repo", ""), authorization)
        wait_seconds = _wait_seconds(request.query.get("wait", "0"))
        place = self._cache.upstreams.resolve(target)
        arrival = await self._cache.arrival(target, digest)
        size_bytes = await arrival.wait_begun()
        is_private = self._cache.is_private(digest)
        if arrival.window is not None or not self._is_shared(place, digest, size_bytes):
            if arrival.is_committed and size_bytes <= _inline_bytes(request):
                return await self._blob(digest, is_private=is_private)
            return _arriving(arrival, "stream", is_swarm=False, is_private=is_private)
        node = request.headers.get("X-Imagedist-Node", request.remote or "")[:_NODE_ID_LENGTH]
        is_first = self._wanting.is_among_first(digest, node)
        # While it is being made it may lie here before the seeders know it: whoever announced then would be refused.
        is_made = arrival.is_committed and not self._making.is_running(digest)
        if is_made and (torrent := await asyncio.to_thread(self._read, digest)) is not None:
            return _torrent(torrent, is_private=is_private, is_first=is_first)
        patience = self._waves.patience(digest, node)
        is_streaming = "streaming" in request.query
        may_stream = is_first if arrival.is_committed else patience <= 0
        if may_stream and not is_streaming and not wait_seconds:
            # It asks again. To make a torrent at once would take the CPU from the few that stream, and nobody needs it.
            return _arriving(arrival, "stream", is_swarm=True, is_private=is_private)
        making = self._making.start(digest, lambda: self._make(digest, arrival))
        if is_streaming or (may_stream and arrival.is_committed):
            hold_seconds = wait_seconds
        else:
            hold_seconds = max(wait_seconds, _BUILD_SECONDS) if arrival.is_committed else min(wait_seconds, patience)
        if hold_seconds > 0 and self._waiting < _MAX_WAITING:
            self._waiting += 1
            try:
                await wait_unless_stopping(request, making, hold_seconds)
            finally:
                self._waiting -= 1
        if making.done():
            with contextlib.suppress(FullError):  # the disk filled meanwhile: it passes through
                return _torrent(making.result(), is_private=is_private, is_first=is_first)
            return _arriving(arrival, "stream", is_swarm=False, is_private=is_private)
        action = "wait" if self._waves.patience(digest, node) > 0 else "stream"
        return _arriving(arrival, action, is_swarm=True, is_private=is_private)

    async def _blob(self, digest: Digest, *, is_private: bool) -> web.Response:
        blob = await self._cache.store.open(digest)
        try:
            if self._rate is not None:  # before it is in memory: a thousand nodes may wait here
                await self._rate.take(blob.size_bytes)
            content = await blob.read(0, blob.size_bytes)
        finally:
            await blob.close()
        BYTES_SERVED.labels(kind="blob").inc(len(content))
        headers = {PRIVATE_HEADER: "1"} if is_private else {}
        return web.Response(body=content, content_type=BLOB_TYPE, headers=headers)

    async def fetch(self, request: web.Request) -> web.Response:
        """``POST /site/v1/blobs/{digest}/fetch?wait=S`` with ``{"ns", "repo"}``: 200 once in the site, 202 on its way.

        ``"for_sync": true``: within the cap ``"bytes_per_second"``, which holds for all such orders together, until
        somebody else wants the blob.
        """
        digest = Digest.parse(request.match_info["digest"])
        try:
            order = _FetchOrder.model_validate_json(await request.read())
        except ValidationError as error:
            raise InputError(f"malformed order to fetch {digest}: {error.errors()[0]['msg']}") from error
        wait_seconds = _wait_seconds(request.query.get("wait", "0"))
        if order.for_sync:
            self._cache.limit_sync(order.bytes_per_second)
        arrival = await self._cache.arrival(_target(order.ns, order.repo), digest, for_sync=order.for_sync)
        size_bytes = await arrival.wait_begun()
        if not arrival.is_committed and wait_seconds and self._waiting < _MAX_WAITING:
            await self._wait(request, arrival, wait_seconds)
        is_here = arrival.is_committed
        body = {"format": 1, "size": size_bytes, "present": arrival.present_bytes, "here": is_here}
        return web.json_response(body, status=200 if is_here else 202)

    async def _wait(self, request: web.Request, arrival: Arrival, seconds: float) -> None:
        """Raises as the fetch did, and when there is no room to store it."""
        arriving = asyncio.create_task(arrival.wait())
        self._waiting += 1
        try:
            await wait_unless_stopping(request, arriving, seconds)
            if arriving.done():
                arriving.result()
        finally:
            self._waiting -= 1
            if not arriving.cancel() and not arriving.cancelled():
                arriving.exception()  # retrieved: whoever asked may have gone

    async def let_go(self, digest: Digest) -> bool:
        """Before the store evicts a blob: the seeders stop first, then the torrent goes."""
        path = self._path(digest)
        if not await asyncio.to_thread(path.exists):
            return not self._cache.is_arriving(digest)
        if not await self._seeds.delete(digest):
            return False
        await asyncio.to_thread(self._cache.store.ledger.unlink, path)
        return True

    async def _forget(self, digest: Digest) -> None:
        """A blob is gone although its seeders did not answer (it had rotted): its torrent is made and told anew."""
        await asyncio.to_thread(self._cache.store.ledger.unlink, self._path(digest))

    def _drop_orphans(self) -> None:
        """Torrents of blobs that are not here (a process was killed between the two, or somebody removed a blob), and
        those of a version that cut other pieces: seeders and nodes refuse them, and all would come by HTTP."""
        for path in self._directory.glob("*.torrent"):
            digest = Digest.of_name("sha256", path.stem)
            if digest is not None and not (self._cache.store.path(digest).exists() and _is_as_built(path)):
                self._cache.store.ledger.unlink(path)

    def _is_shared(self, place: UpstreamRepository, digest: Digest, size_bytes: int) -> bool:
        is_of_a_kind = digest.algorithm == "sha256" and size_bytes >= self._min_size_bytes
        return is_of_a_kind and self._cache.may_swarm(place, digest)

    async def _make(self, digest: Digest, arrival: Arrival) -> bytes:
        try:
            with self._cache.store.space.pin(digest):
                await arrival.wait()
                async with self._turns.take(digest.hex):
                    torrent = await asyncio.to_thread(self._read, digest)
                    if torrent is None:  # else another worker has made it, and told the seeders
                        torrent = await asyncio.to_thread(build, self._cache.store.path(digest), digest)
                        await asyncio.to_thread(self._cache.store.ledger.write, self._path(digest), torrent)
                        await self._seeds.put(digest, torrent)
            return torrent
        finally:
            self._waves.forget(digest)

    def _read(self, digest: Digest) -> bytes | None:
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(f"read {self._path(digest)}", error) from error

    def _path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.hex}.torrent"


def _target(namespace: str | None, repository: str, authorization: str | None = None) -> Target:
    if not is_name(repository):
        raise InputError(f"invalid repo {repository[:200]!r}: expected a repository name")
    return Target(namespace, repository, authorization)


def _wait_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"invalid wait {text[:20]!r}: expected seconds, at most {LONGEST_WAIT_SECONDS:g}")
    return min(seconds, LONGEST_WAIT_SECONDS)


def _inline_bytes(request: web.Request) -> int:
    text = request.query.get("inline", "0")
    return min(int(text), _MAX_INLINE_BYTES) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _torrent(content: bytes, *, is_private: bool, is_first: bool) -> web.Response:
    headers = {PRIVATE_HEADER: "1"} if is_private else {}
    if is_first:
        headers[ACTION_HEADER] = "stream"
    return web.Response(body=content, content_type="application/x-bittorrent", headers=headers)


def _arriving(arrival: Arrival, action: str, *, is_swarm: bool, is_private: bool) -> web.Response:
    body = {
        "format": 1,
        "size": arrival.size_bytes,
        "present": arrival.present_bytes,
        "action": action,
        "swarm": is_swarm,
        "private": is_private,
    }
    return web.json_response(body, status=202)


def _is_as_built(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_as_built(file.read(HEAD_BYTES))
    except OSError as error:
        raise storage_error(f"read {path}", error) from error
