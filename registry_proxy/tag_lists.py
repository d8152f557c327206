"""Which tags a repository has: the registry says it, and the site adds those that sync keeps here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from imagedist.distribution.backend import Page, Target
from imagedist.distribution.paging import tags_page, whole_page
from imagedist.errors import NotFoundError
from registry_proxy.access import Access
from registry_proxy.synced import SyncedTags
from registry_proxy.upstream import UpstreamRepository


class TagLists:
    def __init__(self, access: Access, synced: SyncedTags) -> None:
        self._access = access
        self._synced = synced

    async def page(self, place: UpstreamRepository, target: Target, query: Mapping[str, str]) -> Page:
        """The upstream's page. Where it does not page by itself, with the synced tags that it lacks: at a site that has
        an image from another one its own registry may not even know the repository.

        Raises:
            NotFoundError, SourceError, UnauthorizedError: the upstream's answer. StorageError.
        """
        synced: list[str] = []
        if not place.needs_grant:
            synced = await asyncio.to_thread(self._synced.answers, place.upstream, place.repository)
        if synced and (page := await self._with(synced, place, target, query)) is not None:
            return page
        asked = {**query, "n": "1"} if query.get("n") == "0" else query  # what n=0 means is not the same everywhere
        return tags_page(await self._ask(place, asked), target, query)

    async def _with(
        self, synced: Sequence[str], place: UpstreamRepository, target: Target, query: Mapping[str, str]
    ) -> Page | None:
        """None: the upstream pages, in an order of its own."""
        upstream = None
        with contextlib.suppress(NotFoundError):
            upstream = await self._ask(place, {})
        return whole_page(upstream, synced, target, query) if upstream is None or upstream.link is None else None

    async def _ask(self, place: UpstreamRepository, query: Mapping[str, str]) -> Page:
        with self._access.asking(place):
            return await place.client.tags(place.repository, query)
