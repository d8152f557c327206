"""The site's store looked after: pins, what may go, scrubbing, and the routes that tell of it."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from imagedist.config import ProxyTable
from imagedist.distribution.backend import Target
from imagedist.distribution.rate import TokenBucket
from imagedist.errors import ImagedistError, NotFoundError
from imagedist.oci.digest import Digest
from imagedist.store.scrub import Scrub
from registry_proxy.cache import SiteCache
from registry_proxy.keeping import Keeping
from registry_proxy.pin_routes import PinRoutes
from registry_proxy.pins import Pins
from registry_proxy.policy import tag_policy
from registry_proxy.store_routes import StoreRoutes

_LOG = logging.getLogger(__name__)


class Housekeeping:
    """Tells the cache's store what stays, and in what order the rest goes."""

    def __init__(self, cache: SiteCache, settings: ProxyTable) -> None:
        self._cache = cache
        self._pins = Pins(cache.store.root, cache.store.ledger)
        self._keeping = Keeping(cache.store.root, cache.manifest_store, self._pins, cache.synced, self._is_for_ever)
        cache.store.space.keeps = self._keeping.keeps
        cache.store.space.others = self._keeping.others
        self._rate = TokenBucket(settings.scrub_rate) if settings.scrub_rate else None
        interval_seconds = settings.scrub_interval.total_seconds() or float("inf")
        self._scrub = Scrub(cache.store, interval_seconds, self._pace, self._fetch_if_pinned)
        self._store_routes = StoreRoutes(cache, self._pins, self._keeping, self._scrub)
        self._scrubbing: asyncio.Task[None] | None = None

    def add_routes(self, app: web.Application) -> None:
        PinRoutes(self._cache, self._pins, self._keeping).add_routes(app)
        self._store_routes.add_routes(app)

    def start(self) -> None:
        self._scrubbing = asyncio.create_task(self._scrub.run(), name="scrub")

    async def close(self) -> None:
        await self._store_routes.close()
        if self._scrubbing is not None:
            self._scrubbing.cancel()
            await asyncio.wait([self._scrubbing])

    def _is_for_ever(self, upstream: str, repository: str, tag: str) -> bool:
        try:
            place = self._cache.upstreams.resolve(Target(None, f"{upstream}/{repository}"))
        except NotFoundError:  # no longer configured
            return False
        return tag_policy(place.settings, repository, tag).fresh_seconds == float("inf")

    async def _pace(self, size_bytes: int) -> None:
        if self._rate is not None:
            await self._rate.take(size_bytes)

    async def _fetch_if_pinned(self, digest: Digest) -> None:
        """What rotted is fetched again at once if it is pinned or synced, else by whoever asks next."""
        for root, repository in await asyncio.to_thread(self._roots):
            if digest in await asyncio.to_thread(self._keeping.reached, [root]):
                try:
                    await self._cache.arrival(Target(None, repository), digest)
                except ImagedistError as error:
                    _LOG.warning("cannot fetch the kept blob %s again: %s", digest, error)
                else:
                    _LOG.info("fetching the kept blob %s again", digest)
                return

    def _roots(self) -> list[tuple[Digest, str]]:
        """What pins and synced tags mean, and where it can be fetched."""
        pinned = [(pin.digest, f"{pin.upstream}/{pin.repository}") for pin in self._pins.all() if pin.upstream]
        return pinned + [(tag.digest, f"{tag.upstream}/{tag.repository}") for tag in self._cache.synced.all()]
