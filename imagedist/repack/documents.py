"""What a repacked image's manifest and index say. Pure: JSON in, JSON out; what is not about layers stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
from imagedist.repack.layer import RepackedLayer
from imagedist.repack.place import Document

_FORMAT_ANNOTATIONS = (
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
    "io.github.containers.zstd-chunked.",
)
"""They describe where files lie in the old compressed bytes."""
_REFERENCE_TYPE = "vnd.docker.reference.type"


def is_attestation(entry: Descriptor) -> bool:
    """BuildKit's entries about another manifest of the index, by that manifest's digest."""
    return _REFERENCE_TYPE in (entry.annotations or {})


def repacked_manifest(original: bytes, layers: Sequence[RepackedLayer], media_type: str) -> Document:
    """An OCI manifest of the new layers; the config, and so the image's ID, stays.

    Args:
        media_type: of the layers.
    """
    manifest = json.loads(original)
    manifest["mediaType"] = OCI_MANIFEST
    manifest["config"]["mediaType"] = OCI_CONFIG
    manifest["layers"] = [
        _without_format(old) | {"mediaType": media_type, "digest": str(new.digest), "size": new.size_bytes}
        for old, new in zip(manifest["layers"], layers, strict=True)
    ]
    return _document(manifest, OCI_MANIFEST)


def repacked_index(original: bytes, manifests: Mapping[Digest, Document]) -> Document:
    """An OCI index of those entries of the original that were repacked."""
    index = json.loads(original)
    index["mediaType"] = OCI_INDEX
    kept = ((entry, manifests.get(Digest.parse(entry["digest"]))) for entry in index["manifests"])
    index["manifests"] = [entry | document.descriptor() for entry, document in kept if document is not None]
    return _document(index, OCI_INDEX)


def _without_format(layer: dict[str, Any]) -> dict[str, Any]:
    annotations = {
        key: value for key, value in (layer.get("annotations") or {}).items() if not key.startswith(_FORMAT_ANNOTATIONS)
    }
    rest = {key: value for key, value in layer.items() if key != "annotations"}
    return rest | {"annotations": annotations} if annotations else rest


def _document(content: dict[str, Any], media_type: str) -> Document:
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return Document(body, media_type, Digest.of(body))
