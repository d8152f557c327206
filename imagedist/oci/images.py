"""A reference becomes a resolved image: index, platform, manifest, config, each by the digest above it."""

from __future__ import annotations

from typing import Protocol

from imagedist.errors import IntegrityError, UnacceptableError
from imagedist.oci.client import FetchedManifest
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.manifest import Index, choose_platform, parse_document, resolve
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference

CONFIG_LIMIT_BYTES = 8 << 20
"""containerd's and containers/image's bound for a config."""


class Documents(Protocol):
    """Where manifests and configs come from, checked: a ``RegistryClient``, or an agent's own cache."""

    async def manifest(self, repository: str, reference: str) -> FetchedManifest: ...

    async def blob_bytes(self, repository: str, digest: Digest, limit_bytes: int) -> bytes: ...


async def resolve_image(client: Documents, reference: Reference, platform: Platform) -> Image:
    """Asks a registry (or a mirror of it) what a reference means for a platform.

    Raises:
        NotFoundError: no such tag or digest, or nothing for this platform.
        UnauthorizedError, SourceError: the registry refused or failed.
        IntegrityError: bytes that are not what their digest or size says.
        UnacceptableError: not an image that can be unpacked.
    """
    about = str(reference)
    fetched = await client.manifest(reference.repository, reference.target)
    document = parse_document(fetched.media_type, fetched.body, about)
    index_digest, index_bytes = None, None
    if isinstance(document, Index):
        chosen = choose_platform(document, platform, about)
        index_digest, index_bytes = fetched.digest, fetched.body
        fetched = await client.manifest(reference.repository, str(chosen.digest))
        if len(fetched.body) != chosen.size_bytes:
            raise IntegrityError(
                f"manifest {chosen.digest} of {about} has {len(fetched.body)} bytes, its index says {chosen.size_bytes}"
            )
        document = parse_document(fetched.media_type or chosen.media_type, fetched.body, about)
        if isinstance(document, Index):
            raise UnacceptableError(f"{about} has an index within its index: expected a manifest for {platform}")
    config = document.config
    config_bytes = await client.blob_bytes(reference.repository, config.digest, CONFIG_LIMIT_BYTES)
    if len(config_bytes) != config.size_bytes:
        raise IntegrityError(
            f"config {config.digest} of {about} has {len(config_bytes)} bytes, its manifest says {config.size_bytes}"
        )
    return resolve(about, document, fetched.body, fetched.digest, config_bytes, index_digest, index_bytes)
