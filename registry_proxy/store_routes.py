"""``/site/v1/store`` and ``/site/v1/scrub``: what the site's store holds, and how its blobs are looked after."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from imagedist.metrics import STORE_PINNED_BYTES
from imagedist.site_store import FolderStatus, ScrubStatus, StoreStatus
from imagedist.store.scrub import Scrub
from registry_proxy.cache import SiteCache
from registry_proxy.flights import Flights
from registry_proxy.keeping import Keeping
from registry_proxy.pins import Pins

_KEPT_SECONDS = 5.0
"""A count reads every directory: answered again for so long."""


class StoreRoutes:
    def __init__(self, cache: SiteCache, pins: Pins, keeping: Keeping, scrub: Scrub) -> None:
        self._cache = cache
        self._pins = pins
        self._keeping = keeping
        self._scrub = scrub
        self._counting: Flights[str, StoreStatus] = Flights()
        self._counted: tuple[float, StoreStatus] | None = None

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/store", self.get_store)
        app.router.add_get("/scrub", self.get_scrub)
        app.router.add_post("/scrub", self.want_scrub)

    async def close(self) -> None:
        await self._counting.close()

    async def get_store(self, request: web.Request) -> web.Response:
        """Counted now, or a few seconds ago."""
        if self._counted is None or time.monotonic() - self._counted[0] > _KEPT_SECONDS:
            status = await self._counting.run("", lambda: asyncio.to_thread(self._count))
            self._counted = (time.monotonic(), status)
        return web.json_response(body=self._counted[1].model_dump_json().encode())

    async def get_scrub(self, request: web.Request) -> web.Response:
        status = await asyncio.to_thread(self._scrub_status)
        return web.json_response(body=status.model_dump_json().encode())

    async def want_scrub(self, request: web.Request) -> web.Response:
        """A round now, by whichever process of this host is first; 202."""
        await self._scrub.want()
        status = await asyncio.to_thread(self._scrub_status)
        return web.json_response(body=status.model_dump_json().encode(), status=202)

    def _count(self) -> StoreStatus:
        store, space = self._cache.store, self._cache.store.space
        counted, usage, kept = space.recount(), store.ledger.read(), self._keeping.keeps()
        sizes = [self._cache.size_here(digest) for digest in kept]
        here = [size_bytes for size_bytes in sizes if size_bytes is not None]
        STORE_PINNED_BYTES.set(sum(here))
        return StoreStatus(
            root=str(store.root),
            quota_bytes=space.quota_bytes,
            used_bytes=counted.used_bytes,
            arriving_bytes=counted.outstanding_bytes,
            free_bytes=space.free_bytes,
            headroom_bytes=space.headroom_bytes,
            folders={
                name: FolderStatus(files=folder.files, bytes=folder.size_bytes)
                for name, folder in sorted(counted.folders.items())
            },
            pins=len(self._pins.all()),
            pinned_blobs=len(here),
            pinned_bytes=sum(here),
            missing_blobs=len(sizes) - len(here),
            evicted_files=usage.evicted_files,
            evicted_bytes=usage.evicted_bytes,
            scrub=self._scrub_status(),
        )

    def _scrub_status(self) -> ScrubStatus:
        state = self._scrub.state()
        return ScrubStatus(
            is_running=self._scrub.is_running(),
            is_wanted=self._scrub.is_wanted(),
            checked_blobs=state.checked_blobs,
            checked_bytes=state.checked_bytes,
            rotten_blobs=state.rotten_blobs,
            started_at=state.started_at,
            finished_at=state.finished_at,
            next_at=self._scrub.next_at(),
        )
