"""The puller's source on a node with an agent: manifests from the site, blobs from cache and swarm."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imagedist.distribution.backend import Target
from imagedist.fetch.node import NodeBlobs
from imagedist.oci.digest import Digest
from imagedist.oci.images import resolve_image
from imagedist.oci.manifest import Descriptor, Image, Platform
from imagedist.oci.reference import Reference
from imagedist.site import Site

_CHUNK_BYTES = 1 << 20


class NodeSource:
    """A ``fetch.source.Source``."""

    def __init__(self, site: Site, blobs: NodeBlobs) -> None:
        self._site = site
        self._blobs = blobs

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        raise NotImplementedError

    async def chunks(self, reference: Reference, descriptor: Descriptor) -> AsyncIterator[bytes]:
        target = Target(namespace=reference.registry, name=reference.repository)
        blob = await self._blobs.open(target, descriptor.digest)
        try:
            offset = 0
            while chunk := await blob.read(offset, _CHUNK_BYTES):
                offset += len(chunk)
                yield chunk
        finally:
            await blob.close()
