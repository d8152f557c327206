"""Who refers to a manifest: the upstream's referrers API, or the tag that stands for it where there is none.

Distribution spec, "Unavailable Referrers API": clients that meet a registry without that API keep the list in an index
tagged ``sha256-<hex>``. The proxy looks there for them, so that a client of any upstream may rely on the API.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from imagedist.distribution.backend import Page, Target
from imagedist.distribution.paging import no_referrers, referrers_page
from imagedist.errors import NotFoundError, SourceError
from imagedist.oci.digest import Digest
from registry_proxy.failures import RecentFailures
from registry_proxy.tags import Manifests
from registry_proxy.upstream import UpstreamRepository

log = logging.getLogger(__name__)

_TAG_HEX_LENGTH = 64
"""Of a longer digest (sha512) the tag has the beginning ("Referrers Tag Schema")."""


class Referrers:
    def __init__(self, manifests: Manifests, failures: RecentFailures) -> None:
        self._manifests = manifests
        self._failures = failures

    async def of(self, place: UpstreamRepository, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        """An image index of what refers to ``digest``; empty when nothing does, never a 404.

        Raises:
            SourceError: the upstream does not answer.
        """
        key = ("referrers API", place.key)
        try:
            self._failures.check(key)
            page = await place.client.referrers(place.repository, digest, query)
            answer = referrers_page(page, target, digest, query)
            if answer is not None:
                return answer
            raise NotFoundError(f"{place} sent no image index of referrers")
        except NotFoundError as error:
            self._failures.remember(key, error, place.settings.negative_ttl.total_seconds())
        except SourceError as error:
            if not await self._manifests.is_synced(place, _tag(digest)):
                raise
            log.info("the referrers of %s@%s as their tag tells them: %s", place, digest, error)
        return await self._tagged(place, target, digest, query)

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
            log.warning("%s:%s is no image index: taken for no referrers", place, tag)
            return no_referrers(query)
        return answer


def _tag(subject: Digest) -> str:
    return f"{subject.algorithm}-{subject.hex[:_TAG_HEX_LENGTH]}"
