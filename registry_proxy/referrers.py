"""Who refers to a manifest: the upstream's referrers API, or the tag that stands for it where there is none.

Distribution spec, "Unavailable Referrers API": clients that meet a registry without that API keep the list in an index
tagged ``sha256-<hex>``. The proxy looks there for them, so that a client of any upstream may rely on the API; and it
makes such an index of what an upstream with the API tells, so that a sync rule carries both in the same way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.distribution.paging import index_of, next_query, no_referrers, referrers_page, with_more
from imagedist.errors import NotFoundError, SourceError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import MANIFEST_LIMIT_BYTES, OCI_INDEX
from registry_proxy.failures import RecentFailures
from registry_proxy.tags import Manifests
from registry_proxy.upstream import UpstreamRepository

_LOG = logging.getLogger(__name__)

_TAG_HEX_LENGTH = 64
"""Of a longer digest (sha512) the tag has the beginning ("Referrers Tag Schema")."""
_MAX_PAGES = 1000
_CARRIED = ("mediaType", "digest", "size", "artifactType", "annotations")
"""What an index says of each: the same, whatever else a registry's API adds to it."""


class Referrers:
    def __init__(self, manifests: Manifests, failures: RecentFailures) -> None:
        self._manifests = manifests
        self._failures = failures

    async def of(self, place: UpstreamRepository, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        """An image index of what refers to ``digest``; empty when nothing does, never a 404.

        What sync keeps here of another site's is in it, whatever this site's registry knows.

        Raises:
            SourceError: the upstream does not answer.
        """
        try:
            answer = referrers_page(await self._page(place, digest, query), target, digest, query)
            assert answer is not None
            if answer.link is None and await self._manifests.is_synced(place, _tag(digest)):
                answer = with_more(answer, (await self._tagged(place, target, digest, query)).body)
            return answer
        except NotFoundError:
            pass  # no such API
        except SourceError as error:
            if not await self._manifests.is_synced(place, _tag(digest)):
                raise
            _LOG.info("the referrers of %s@%s as their tag tells them: %s", place, digest, error)
        return await self._tagged(place, target, digest, query)

    async def keep(self, place: UpstreamRepository, digest: Digest) -> Digest | None:
        """All that the upstream's API tells of a manifest, as one index that is kept here. None: nothing refers to it.

        Raises:
            NotFoundError: it has no such API. UnacceptableError: more than an index can name.
            SourceError, StorageError.
        """
        found = await self._all(place, digest)
        if not found:
            return None
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [found[name] for name in sorted(found)]}
        body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        if len(body) > MANIFEST_LIMIT_BYTES:
            raise UnacceptableError(f"{len(found)} referrers of {place}@{digest} are more than an index can name")
        index = ManifestAnswer(Digest.of(body), OCI_INDEX, body)
        await self._manifests.keep(place, index)
        return index.digest

    async def _all(self, place: UpstreamRepository, digest: Digest) -> dict[str, dict[str, object]]:
        """What the API tells on all its pages, by digest. Raises as ``keep``."""
        found: dict[str, dict[str, object]] = {}
        query: Mapping[str, str] = {}
        for _ in range(_MAX_PAGES):
            page = await self._page(place, digest, query)
            index = index_of(page.body)
            assert index is not None
            for one in index["manifests"]:
                found[str(one.get("digest"))] = {key: one[key] for key in _CARRIED if key in one}
            following = next_query(page.link)
            if following is None:
                return found
            query = following
        raise UnacceptableError(f"{place} tells of the referrers of {digest} on more than {_MAX_PAGES} pages")

    async def _page(self, place: UpstreamRepository, digest: Digest, query: Mapping[str, str]) -> Page:
        """What the API tells, an image index. Raises NotFoundError: there is no such API. SourceError."""
        key = ("referrers API", place.key)
        self._failures.check(key)
        try:
            page = await place.client.referrers(place.repository, digest, query)
            if index_of(page.body) is None:
                raise NotFoundError(f"{place} sent no image index of referrers")
        except NotFoundError as error:
            self._failures.remember(key, error, place.settings.negative_ttl.total_seconds())
            raise
        return page

    async def _tagged(
        self, place: UpstreamRepository, target: Target, digest: Digest, query: Mapping[str, str]
    ) -> Page:
        tag = _tag(digest)
        try:
            manifest = await self._manifests.by_tag(place, tag)
        except NotFoundError:
            return no_referrers(query)
        page = Page(manifest.body, manifest.media_type)
        answer = referrers_page(page, target, digest, query)
        if answer is None:
            _LOG.warning("%s:%s is no image index: taken for no referrers", place, tag)
            return no_referrers(query)
        return answer


def _tag(subject: Digest) -> str:
    return f"{subject.algorithm}-{subject.hex[:_TAG_HEX_LENGTH]}"
