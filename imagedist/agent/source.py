"""The puller's source on a node with an agent: its own mirror for documents, cache and swarm for layers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imagedist.distribution.backend import Target
from imagedist.fetch.node import NodeBlobs
from imagedist.fetch.registry import RegistrySource
from imagedist.oci.manifest import Descriptor, Image, Platform
from imagedist.oci.reference import Reference

_CHUNK_BYTES = 1 << 20


class NodeSource:
    """A ``fetch.source.Source``.

    Args:
        mirror: URL of this agent's own mirror: references are resolved exactly as a runtime would.
        blobs: asked directly for layers, so that their bytes do not go through a socket.
    """

    def __init__(self, mirror: str, blobs: NodeBlobs) -> None:
        self._mirror = mirror
        self._blobs = blobs

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        documents = RegistrySource(reference, self._mirror)
        try:
            return await documents.resolve(reference, platform)
        finally:
            await documents.close()

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
