"""A resolved image and its layers: plain values, so that store and workers need no pydantic."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagedist.oci.digest import Digest

if TYPE_CHECKING:
    from imagedist.oci.manifest import Descriptor, ImageConfig, Manifest


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
