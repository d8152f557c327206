"""The agent's side of the /v2 surface: manifests from the site, blobs from cache and swarm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from imagedist.distribution.backend import ManifestAnswer, Page, Target
from imagedist.errors import InputError
from imagedist.fetch.node import NodeBlobs
from imagedist.oci.digest import Digest
from imagedist.site import Site
from imagedist.store.reading import OpenBlob

_KEPT_BYTES = 32 << 20
"""Manifests by digest kept in memory: a few KiB each in practice, 4 MiB at most."""


class Mirror:
    """A ``RegistryBackend``. It knows no upstreams: ``ns`` and path go to the site's proxy untouched."""

    def __init__(self, site: Site, blobs: NodeBlobs) -> None:
        self._site = site
        self._blobs = blobs
        self._kept_bytes = 0
        self._manifests: OrderedDict[tuple[Target, Digest], ManifestAnswer] = OrderedDict()

    async def manifest(self, target: Target, reference: str) -> ManifestAnswer:
        """Tags are asked for every time (the site has the tag policy); what a digest names never changes."""
        kept = self._kept(target, reference)
        if kept is not None:
            return kept
        answer = await self._site.manifest(target, reference)
        self._keep((target, answer.digest), answer)
        return replace(answer, is_kept=False)

    def _keep(self, key: tuple[Target, Digest], answer: ManifestAnswer) -> None:
        if key not in self._manifests:
            self._manifests[key] = replace(answer, warning=None)  # a digest is never stale
            self._kept_bytes += len(answer.body)
        while self._kept_bytes > _KEPT_BYTES:
            _, dropped = self._manifests.popitem(last=False)
            self._kept_bytes -= len(dropped.body)

    def _kept(self, target: Target, reference: str) -> ManifestAnswer | None:
        try:
            return self._manifests.get((target, Digest.parse(reference)))
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
