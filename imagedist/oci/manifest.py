"""Indexes, manifests and image configs (OCI image spec 1.1 and Docker schema 2), and what they imply.

Pure rules: bytes in, frozen values out. Whoever fetched the bytes has checked their digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imagedist.errors import NotFoundError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.fields import Fields, MalformedError
from imagedist.oci.image import Image, Layer, chain_ids
from imagedist.oci.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)

MANIFEST_LIMIT_BYTES = 4 << 20
"""Clients refuse larger manifests (containerd; distribution spec suggests 4 MiB)."""

_COMPRESSIONS = {
    OCI_LAYER: "none",
    OCI_LAYER + "+gzip": "gzip",
    OCI_LAYER + "+zstd": "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER + ".gzip": "gzip",
    DOCKER_LAYER + ".zstd": "zstd",
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is: media type, digest, size in bytes (descriptor.md)."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def read(cls, fields: Fields) -> Descriptor:
        return cls(
            media_type=fields.text("mediaType"),
            digest=fields.digest("digest"),
            size_bytes=fields.count("size"),
            platform=_platform(fields.object("platform")) if "platform" in fields else None,
            annotations=fields.texts("annotations"),
        )

    @property
    def compression(self) -> str:
        """``none``, ``gzip`` or ``zstd`` of a layer.

        Raises:
            UnacceptableError: not a layer that we can unpack (encrypted, foreign, unknown).
        """
        try:
            return _COMPRESSIONS[self.media_type]
        except KeyError:
            raise UnacceptableError(
                f"unsupported media type {self.media_type!r} of layer {self.digest}: "
                "expected an OCI or Docker tar layer, plain, gzip or zstd"
            ) from None


def _platform(fields: Fields) -> Platform:
    return Platform(fields.text("os", "linux"), fields.text("architecture"), fields.text("variant") or None)


@dataclass(frozen=True, slots=True)
class Index:
    manifests: tuple[Descriptor, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> Index:
        return cls(tuple(map(Descriptor.read, fields.objects("manifests"))))


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> Manifest:
        return cls(
            media_type=fields.text("mediaType", OCI_MANIFEST),
            config=Descriptor.read(fields.object("config")),
            layers=tuple(map(Descriptor.read, fields.objects("layers"))),
        )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    diff_ids: tuple[Digest, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> ImageConfig:
        return cls(fields.object("rootfs").digests("diff_ids") if "rootfs" in fields else ())


def parse_document(media_type: str, content: bytes, about: str) -> Index | Manifest:
    """Reads an index or a manifest.

    Args:
        media_type: as served; parameters after ``;`` are ignored. Empty: taken from the document.
        about: what the user asked for, for messages.

    Raises:
        UnacceptableError: schema 1, an unknown media type, malformed JSON, or too large.
    """
    if len(content) > MANIFEST_LIMIT_BYTES:
        raise UnacceptableError(f"manifest of {about} is larger than {MANIFEST_LIMIT_BYTES} bytes")
    kind = media_type.partition(";")[0].strip()
    try:
        fields = Fields.parse(content)
        if kind not in INDEXES | MANIFESTS:
            kind = _kind(fields) or kind
        if kind in INDEXES:
            return Index.read(fields)
        if kind in MANIFESTS:
            return Manifest.read(fields)
    except MalformedError as error:
        raise UnacceptableError(f"malformed manifest of {about}: {error}") from error
    if kind.startswith(DOCKER_SCHEMA1):
        raise UnacceptableError(
            f"{about} is a Docker schema 1 image, which is retired: push it again with a current client"
        )
    raise UnacceptableError(
        f"unsupported media type {kind or 'unknown'!r} of {about}: expected an image manifest or index"
    )


def _kind(fields: Fields) -> str:
    """What a document says it is, or looks like."""
    if fields.count("schemaVersion", 0) == 1:
        return DOCKER_SCHEMA1
    if media_type := fields.text("mediaType"):
        return media_type
    if "manifests" in fields:
        return OCI_INDEX
    return OCI_MANIFEST if "config" in fields else ""


def parse_config(content: bytes, about: str) -> ImageConfig:
    """Reads an image config.

    Raises:
        UnacceptableError: malformed JSON or digests.
    """
    try:
        return ImageConfig.read(Fields.parse(content))
    except MalformedError as error:
        raise UnacceptableError(f"malformed image config of {about}: {error}") from error


def choose_platform(index: Index, wanted: Platform, about: str) -> Descriptor:
    """The manifest of an index for one platform: an exact variant first, then any, then a lone unlabelled one.

    Raises:
        NotFoundError: no manifest fits; the message lists the platforms there are.
    """
    candidates = [entry for entry in index.manifests if entry.media_type in MANIFESTS]
    labelled = [
        entry
        for entry in candidates
        if entry.platform and (entry.platform.os, entry.platform.architecture) == (wanted.os, wanted.architecture)
    ]
    if wanted.variant:
        labelled.sort(key=lambda entry: (entry.platform and entry.platform.variant) != wanted.variant)
    if labelled:
        return labelled[0]
    if len(candidates) == 1 and candidates[0].platform is None:
        return candidates[0]
    there = ", ".join(sorted({str(entry.platform) for entry in candidates if entry.platform})) or "none"
    raise NotFoundError(f"{about} has no manifest for {wanted}; it has: {there}", "MANIFEST_UNKNOWN")


def resolve(
    reference: str,
    manifest: Manifest,
    manifest_bytes: bytes,
    manifest_digest: Digest,
    config_bytes: bytes,
    index_digest: Digest | None = None,
    index_bytes: bytes | None = None,
) -> Image:
    """Joins a manifest and its config into an image.

    Raises:
        UnacceptableError: the config's diff IDs and the manifest's layers do not correspond, or a layer
            has a media type that cannot be unpacked.
    """
    config = parse_config(config_bytes, reference)
    if len(config.diff_ids) != len(manifest.layers):
        raise UnacceptableError(
            f"{reference} has {len(manifest.layers)} layers but {len(config.diff_ids)} diff IDs: not an image"
        )
    for descriptor in manifest.layers:
        _ = descriptor.compression
    chain = chain_ids(config.diff_ids)
    layers = tuple(map(Layer, manifest.layers, config.diff_ids, chain))
    return Image(
        reference,
        manifest,
        manifest_bytes,
        manifest_digest,
        config,
        config_bytes,
        layers,
        index_digest,
        index_bytes,
    )
