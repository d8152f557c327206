"""The puller's source on a node with an agent: documents from the site, layers from cache and swarm."""

from __future__ import annotations

from concurrent.futures import Executor

from imagedist.agent.mirror import Mirror
from imagedist.distribution.backend import Target
from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.oci.bulk import Consume
from imagedist.oci.client import FetchedManifest
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.images import resolve_image
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.store.reading import deliver

_CHUNK_BYTES = 1 << 20


class NodeSource:
    """A ``fetch.source.Source`` over the agent's own mirror, without a socket in between.

    Its blobs are verified: whoever brings one to this node gives nobody its last byte before the digest matched.

    Args:
        authorization: of the user whose pull it is, for upstreams whose users bring their own credentials.
    """

    is_verified = True

    def __init__(self, mirror: Mirror, authorization: str | None = None) -> None:
        self._mirror = mirror
        self._authorization = authorization

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        documents = _Documents(self._mirror, reference.registry, self._authorization)
        return await resolve_image(documents, reference, platform)

    async def deliver(self, reference: Reference, descriptor: Descriptor, consume: Consume, threads: Executor) -> None:
        target = Target(reference.registry, reference.repository, self._authorization)
        blob = await self._mirror.open_blob(target, descriptor.digest)
        try:
            await deliver(blob, consume, threads)
        finally:
            await blob.close()


class _Documents:
    """Manifests and configs of one registry, as ``resolve_image`` asks for them."""

    def __init__(self, mirror: Mirror, registry: str, authorization: str | None) -> None:
        self._mirror = mirror
        self._registry = registry
        self._authorization = authorization

    async def manifest(self, repository: str, reference: str) -> FetchedManifest:
        answer = await self._mirror.manifest(Target(self._registry, repository, self._authorization), reference)
        return FetchedManifest(answer.body, answer.media_type, answer.digest, answer.warning)

    async def blob_bytes(self, repository: str, digest: Digest, limit_bytes: int) -> bytes:
        blob = await self._mirror.open_blob(Target(self._registry, repository, self._authorization), digest)
        try:
            if blob.size_bytes > limit_bytes:
                raise UnacceptableError(f"config {digest} has {blob.size_bytes} bytes, more than {limit_bytes}")
            content = b""
            while chunk := await blob.read(len(content), _CHUNK_BYTES):
                content += chunk
        finally:
            await blob.close()
        if Digest.of(content, digest.algorithm) != digest:
            raise IntegrityError(f"config {digest} of {self._registry}/{repository} arrived with wrong bytes")
        return content
