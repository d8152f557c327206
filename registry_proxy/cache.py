"""The pull-through backend of the /v2 surface: what the site has, else the upstream, once however many ask."""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.errors import ImagedistError, InputError, NotFoundError, SourceError
from imagedist.metrics import BYTES_BY_SOURCE, FAILURES, FETCHES
from imagedist.oci.digest import Digest
from imagedist.store.arrival import Arrival, Arrivals, BlobWriter
from imagedist.store.blobs import BlobStore
from imagedist.store.reading import OpenBlob
from registry_proxy.failures import RecentFailures
from registry_proxy.manifests import ManifestStore
from registry_proxy.tags import Manifests
from registry_proxy.upstream import UpstreamRepository, Upstreams

log = logging.getLogger(__name__)

_MAX_PLACES = 16


class SiteCache:
    """A ``RegistryBackend`` over the site's blob store, of which it is the only writer."""

    def __init__(self, store: BlobStore, upstreams: Upstreams) -> None:
        self.store = store
        self.upstreams = upstreams
        self._failures = RecentFailures()
        self._manifests = Manifests(ManifestStore(store.root), self._failures)
        self._arrivals = Arrivals(store)
        self._places: WeakKeyDictionary[Arrival, list[UpstreamRepository]] = WeakKeyDictionary()

    async def close(self) -> None:
        await self._manifests.close()
        await self._arrivals.close()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        place = self.upstreams.resolve(target)
        try:
            digest = Digest.parse(reference)
        except InputError:
            return await self._manifests.by_tag(place, reference)
        return await self._manifests.by_digest(place, digest)

    async def blob_size(self, target: Target, digest: Digest) -> int:
        place = self.upstreams.resolve(target)
        if self.store.has(digest):
            return self.store.size_bytes(digest)
        arrival = self._arrivals.get(digest)
        if arrival is not None and arrival.size_bytes is not None:
            return arrival.size_bytes
        self._failures.check((str(place), digest))
        try:
            return await place.client.blob_size(place.repository, digest)
        except NotFoundError as error:
            self._failures.remember((str(place), digest), error)
            raise

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        if self.store.has(digest):
            self.upstreams.resolve(target)
            try:
                return await self.store.open(digest)
            except NotFoundError:
                log.info("%s was evicted this moment: fetching it again", digest)
        return await (await self.arrival(target, digest)).open()

    async def arrival(self, target: Target, digest: Digest) -> Arrival:
        """The blob's way into the site, begun now if it is not there.

        Raises:
            NotFoundError: no such upstream, or it said a moment ago that it has no such blob.
        """
        place = self.upstreams.resolve(target)
        under_way = self._arrivals.get(digest)
        if under_way is not None:
            # Somebody else's fetch may fail where ours would not: it tries our place after its own.
            others = self._places.get(under_way, [])
            if place not in others and len(others) < _MAX_PLACES:
                others.append(place)
            return under_way
        if not self.store.has(digest):
            self._failures.check((str(place), digest))
        places = [place]
        arrival = await self._arrivals.join(digest, None, lambda writer: self._fetch(places, writer))
        self._places[arrival] = places
        return arrival

    def is_arriving(self, digest: Digest) -> bool:
        return self._arrivals.get(digest) is not None

    async def tags(self, target: Target, count: int | None, last: str | None) -> Page:
        place = self.upstreams.resolve(target)
        page = await place.client.tags(place.repository, count, last)
        return Page(page.body, page.media_type, _relinked(page.link, f"/v2/{target.name}/tags/list", target))

    async def referrers(self, target: Target, digest: Digest, artifact_type: str | None) -> Page:
        place = self.upstreams.resolve(target)
        page = await place.client.referrers(place.repository, digest, artifact_type)
        link = _relinked(page.link, f"/v2/{target.name}/referrers/{digest}", target)
        return Page(page.body, page.media_type, link, page.filters_applied)

    async def _fetch(self, places: list[UpstreamRepository], writer: BlobWriter) -> None:
        """From the first place that has it, of all that were asked for meanwhile."""
        for place in places:  # grows while we wait
            try:
                await self._fetch_from(place, writer)
                return
            except (NotFoundError, SourceError):
                if place is places[-1]:
                    raise

    async def _fetch_from(self, place: UpstreamRepository, writer: BlobWriter) -> None:
        received = BYTES_BY_SOURCE.labels(source="upstream")
        try:
            async with place.client.blob(place.repository, writer.digest, writer.offset) as stream:
                await writer.begin(stream.size_bytes)
                async for chunk in stream:
                    await writer.write(chunk)
                    received.inc(len(chunk))
        except ImagedistError as error:
            FETCHES.labels(kind="blob", outcome=type(error).__name__).inc()
            FAILURES.labels(source="upstream", cause=type(error).__name__).inc()
            self._failures.remember((str(place), writer.digest), error)
            log.warning("fetch of %s from %s failed: %s", writer.digest, place, error)
            raise
        FETCHES.labels(kind="blob", outcome="done").inc()


def _relinked(link: str | None, path: str, target: Target) -> str | None:
    """Upstream's ``Link`` to the next page, as a link of ours: only its query is taken over."""
    if link is None or not link.startswith("<") or ">" not in link:
        return None
    query = dict(parse_qsl(urlsplit(link[1 : link.index(">")]).query))
    query.pop("ns", None)
    if target.namespace is not None:
        query["ns"] = target.namespace
    return f'<{path}?{urlencode(query)}>; rel="next"'
