"""The agent's side of the /v2 surface: manifests from the site, blobs from cache and swarm."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.errors import InputError, SourceError
from imagedist.fetch.node import NodeBlobs
from imagedist.oci.digest import Digest
from imagedist.site import Site
from imagedist.store.reading import OpenBlob

_KEPT_BYTES = 32 << 20
"""Manifests by digest kept in memory: a few KiB each in practice, 4 MiB at most."""
_ASK_AGAIN_SECONDS = 30.0
_ASK_AGAIN_IF_ERROR_SECONDS = 3.0

_LOG = logging.getLogger(__name__)


class Mirror:
    """A ``RegistryBackend``. It knows no upstreams: ``ns`` and path go to the site's proxy untouched."""

    def __init__(self, site: Site, blobs: NodeBlobs) -> None:
        self._site = site
        self._blobs = blobs
        self._kept_bytes = 0
        self._wants_credentials = False
        self._ask_again_at = float("-inf")
        self._asking = asyncio.Lock()
        self._manifests: OrderedDict[tuple[Target, Digest], ManifestAnswer] = OrderedDict()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        """Tags are asked for every time (the site has the tag policy); what a digest names never changes.

        Kept is what the site gave to an anonymous client. For one with credentials it is asked: they may decide.
        """
        kept = self._kept(target, reference)
        if kept is not None:
            return kept
        answer = await self._site.manifest(target, reference)
        if target.authorization is None:
            self._keep((target, answer.digest), answer)
        return replace(answer, is_kept=False)

    async def wants_credentials(self) -> bool:
        """Whether the site's upstreams want credentials of clients; as it said last while it does not answer."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._ask_again_at:
                try:
                    self._wants_credentials = await self._site.wants_credentials()
                    self._ask_again_at = loop.time() + _ASK_AGAIN_SECONDS
                except SourceError as error:
                    self._ask_again_at = loop.time() + _ASK_AGAIN_IF_ERROR_SECONDS
                    _LOG.info("cannot tell whether clients are to log in: %s", error)
        return self._wants_credentials

    def _keep(self, key: tuple[Target, Digest], answer: ManifestAnswer) -> None:
        if key not in self._manifests:
            self._manifests[key] = replace(answer, warning=None)  # a digest is never stale
            self._kept_bytes += len(answer.body)
        while self._kept_bytes > _KEPT_BYTES:
            _, dropped = self._manifests.popitem(last=False)
            self._kept_bytes -= len(dropped.body)

    def _kept(self, target: Target, reference: str) -> ManifestAnswer | None:
        try:
            return self._manifests.get((replace(target, authorization=None), Digest.parse(reference)))
        except InputError:
            return None

    async def blob_size(self, target: Target, digest: Digest) -> int:
        return await self._blobs.size_bytes(target, digest)

    async def open_blob(self, target: Target, digest: Digest) -> OpenBlob:
        return await self._blobs.open(target, digest)

    async def tags(self, target: Target, query: Mapping[str, str]) -> Page:
        return await self._site.tags(target, query)

    async def referrers(self, target: Target, digest: Digest, query: Mapping[str, str]) -> Page:
        return await self._site.referrers(target, digest, query)
