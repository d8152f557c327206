"""What this site holds, for its siblings: the registry's own routes below ``/site/v1/held``, which fetch nothing.

Blobs and manifests by digest that everyone may have, and tags that sync keeps here of such: what needs a grant never
leaves its site so. By digest the repository in the path is for the log alone; of tags it begins with the registry's
name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.rate import Cap
from imagedist.distribution.surface import add_registry_routes
from imagedist.errors import InputError, NotFoundError
from imagedist.oci.digest import Digest
from imagedist.store.reading import OpenBlob
from registry_proxy.cache import SiteCache

MAX_REQUESTS = 64
MAX_DOWNLOADS = 64
"""Few, so that siblings do not take what this site's own nodes need."""


class Held:
    """A ``RegistryBackend``."""

    def __init__(self, cache: SiteCache) -> None:
        self._cache = cache

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        try:
            digest = Digest.parse(reference)
        except InputError:
            upstream, _, repository = target.name.partition("/")
            synced = await asyncio.to_thread(self._cache.synced.get, upstream, repository, reference)
            if synced is None:
                raise NotFoundError(
                    f"only tags that sync keeps are told to sibling sites: {reference}", "MANIFEST_UNKNOWN"
                ) from None
            digest = synced.digest
        held = await self._cache.held_manifest(digest)
        if held is None:
            raise NotFoundError(f"this site does not hold {digest} for everyone", "MANIFEST_UNKNOWN")
        return held

    async def blob_size(self, target: Target, digest: Digest) -> int:
        await self._check(digest)
        return self._cache.store.size_bytes(digest)

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        await self._check(digest)
        return await self._cache.store.open(digest)

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        raise NotFoundError("tags are not told to sibling sites", "NAME_UNKNOWN")

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        raise NotFoundError("referrers are not told to sibling sites", "NAME_UNKNOWN")

    async def _check(self, digest: Digest) -> None:
        if not await self._cache.holds_for_everyone(digest):
            raise NotFoundError(f"this site does not hold {digest} for everyone")


def add_held_routes(site: web.Application, cache: SiteCache, rate: Cap | None) -> None:
    """Adds ``/held/v2/…`` to the site's routes.

    Args:
        rate: the cap on what this proxy sends, shared with its own nodes.
    """
    app = web.Application()
    add_registry_routes(app, Held(cache), max_requests=MAX_REQUESTS, max_downloads=MAX_DOWNLOADS, rate=rate)
    site.add_subapp("/held", app)
