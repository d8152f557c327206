"""Indexes, manifests and image configs (OCI image spec 1.1 and Docker schema 2), and what they imply.

Pure rules: bytes in, frozen values out. Whoever fetched the bytes has checked their digest.
"""

from __future__ import annotations

import hashlib
import platform as host
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from imagedist.errors import InputError, NotFoundError, UnacceptableError
from imagedist.oci.digest import Digest

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


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


def _none_is_empty(value: Any) -> Any:
    return () if value is None else value


class Platform(_Wire):
    """``os/architecture[/variant]``."""

    os: str = "linux"
    architecture: str = ""
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise InputError(f"invalid platform {text!r}: expected os/architecture, for example linux/amd64")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else None)

    @classmethod
    def of_this_machine(cls) -> Platform:
        machine = host.machine()
        architecture, variant = {
            "x86_64": ("amd64", None),
            "aarch64": ("arm64", "v8"),
            "armv7l": ("arm", "v7"),
        }.get(machine, (machine, None))
        return cls(os="linux", architecture=architecture, variant=variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(_Wire):
    """What a blob is: media type, digest, size in bytes (descriptor.md)."""

    media_type: str = Field(alias="mediaType", default="")
    digest: Digest
    size_bytes: int = Field(alias="size", ge=0)
    urls: Annotated[tuple[str, ...], BeforeValidator(_none_is_empty)] = ()
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

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


class Index(_Wire):
    media_type: str = Field(alias="mediaType", default=OCI_INDEX)
    manifests: Annotated[tuple[Descriptor, ...], BeforeValidator(_none_is_empty)] = ()
    annotations: dict[str, str] | None = None


class Manifest(_Wire):
    schema_version: int = Field(alias="schemaVersion", default=2)
    media_type: str = Field(alias="mediaType", default=OCI_MANIFEST)
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], BeforeValidator(_none_is_empty)] = ()
    artifact_type: str | None = Field(alias="artifactType", default=None)
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class _RootFilesystem(_Wire):
    type: str = "layers"
    diff_ids: Annotated[tuple[Digest, ...], BeforeValidator(_none_is_empty)] = ()


class ImageConfig(_Wire):
    os: str = "linux"
    architecture: str = ""
    variant: str | None = None
    created: str | None = None
    rootfs: _RootFilesystem = _RootFilesystem()

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return self.rootfs.diff_ids


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a resolved image: the blob and what it must uncompress to."""

    descriptor: Descriptor
    diff_id: Digest
    chain_id: Digest


@dataclass(frozen=True, slots=True)
class Image:
    """A resolved image: digests all the way down, nothing fetched but JSON.

    Attributes:
        manifest_bytes / manifest_digest: of the platform's own manifest, as stored.
        index_digest: of the index it was chosen from, if there was one.
        config_bytes: the image config as stored; its digest is the image's id.
    """

    reference: str
    manifest: Manifest
    manifest_bytes: bytes
    manifest_digest: Digest
    config: ImageConfig
    config_bytes: bytes
    layers: tuple[Layer, ...]
    index_digest: Digest | None = None
    index_bytes: bytes | None = None

    @property
    def id(self) -> Digest:
        return self.manifest.config.digest

    @property
    def size_bytes(self) -> int:
        return sum(layer.descriptor.size_bytes for layer in self.layers)


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
        if kind not in INDEXES | MANIFESTS:
            kind = _Kind.model_validate_json(content).kind() or kind
        if kind in INDEXES:
            return Index.model_validate_json(content)
        if kind in MANIFESTS:
            return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnacceptableError(f"malformed manifest of {about}: {where}: {first['msg']}") from error
    if kind.startswith(DOCKER_SCHEMA1):
        raise UnacceptableError(
            f"{about} is a Docker schema 1 image, which is retired: push it again with a current client"
        )
    raise UnacceptableError(
        f"unsupported media type {kind or 'unknown'!r} of {about}: expected an image manifest or index"
    )


class _Kind(_Wire):
    schema_version: int = Field(alias="schemaVersion", default=0)
    media_type: str = Field(alias="mediaType", default="")
    manifests: Any = None
    config: Any = None

    def kind(self) -> str:
        if self.schema_version == 1:
            return DOCKER_SCHEMA1
        if self.media_type:
            return self.media_type
        if self.manifests is not None:
            return OCI_INDEX
        return OCI_MANIFEST if self.config is not None else ""


def parse_config(content: bytes, about: str) -> ImageConfig:
    """Reads an image config.

    Raises:
        UnacceptableError: malformed JSON or digests.
    """
    try:
        return ImageConfig.model_validate_json(content)
    except ValidationError as error:
        raise UnacceptableError(f"malformed image config of {about}: {error.errors()[0]['msg']}") from error


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


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """Chain IDs, base first: first the diff ID, then sha256 of parent + " " + diff ID (config.md#layer-chainid)."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def layer_ids(diff_ids: Sequence[Digest]) -> tuple[str, ...]:
    """Layer ids of a containers/storage store, base first, as containers/image computes them (design.md §4.4)."""
    ids: list[str] = []
    for diff_id in diff_ids:
        ids.append(hashlib.sha256(f"{ids[-1]}+{diff_id.hex}".encode()).hexdigest() if ids else diff_id.hex)
    return tuple(ids)


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
