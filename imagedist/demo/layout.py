"""An image in an OCI image layout directory (image-layout.md): written whole or not at all, read back verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.manifest import OCI_INDEX, Image, Index, Manifest, parse_document, resolve

REFERENCE_NAME = "org.opencontainers.image.ref.name"
"""The index annotation that names an image inside a layout (annotations.md); skopeo's ``oci:DIR:NAME``."""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One image of a layout.

    Attributes:
        layout: the directory that holds ``oci-layout``, ``index.json`` and ``blobs/``.
        image: the image, resolved from its own blobs.
    """

    layout: Path
    image: Image

    @property
    def size_bytes(self) -> int:
        """Compressed bytes of all layers together."""
        return self.image.size_bytes

    def blob(self, digest: Digest) -> Path:
        return blob_path(self.layout, digest)


def blob_path(layout: Path, digest: Digest) -> Path:
    return layout / "blobs" / digest.algorithm / digest.hex


def put_json(layout: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    """Writes a JSON blob and returns its descriptor in wire form."""
    content = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    digest = Digest.of(content)
    blob_path(layout, digest).write_bytes(content)
    return {"mediaType": media_type, "digest": str(digest), "size": len(content)}


def write_index(layout: Path, manifest: dict[str, Any], name: str) -> None:
    """Completes a layout with its marker and the index of its one image."""
    entry = {**manifest, "annotations": {REFERENCE_NAME: name}}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps(index, indent=1))


def open_layout(layout: Path) -> BuiltImage:
    """Reads the first image of a layout; manifest and config are checked against their digests.

    Raises:
        InputError: the directory is not an OCI image layout, or holds no image.
        StorageError: a blob is missing, cannot be read or was changed.
        UnacceptableError: the manifest or config is malformed.
    """
    try:
        index = parse_document(OCI_INDEX, (layout / "index.json").read_bytes(), str(layout))
    except FileNotFoundError as error:
        raise InputError(f"{layout} is not an OCI image layout: it has no index.json") from error
    except OSError as error:
        raise storage_error(f"read the image layout {layout}", error) from error
    if not isinstance(index, Index) or not index.manifests:
        raise InputError(f"the index of {layout} lists no image")
    digest = index.manifests[0].digest
    content = _verified(layout, digest)
    manifest = parse_document(index.manifests[0].media_type, content, str(layout))
    if not isinstance(manifest, Manifest):
        raise InputError(f"the first entry of {layout} is an index: expected an image manifest")
    for layer in manifest.layers:
        _check_size(layout, layer.digest, layer.size_bytes)
    config = _verified(layout, manifest.config.digest)
    return BuiltImage(layout, resolve(str(layout), manifest, content, digest, config))


def _verified(layout: Path, digest: Digest) -> bytes:
    try:
        content = blob_path(layout, digest).read_bytes()
    except OSError as error:
        raise storage_error(f"read blob {digest} of {layout}", error) from error
    if Digest.of(content, digest.algorithm) != digest:
        raise StorageError(f"blob {digest} of {layout} was changed: delete the directory and build it again")
    return content


def _check_size(layout: Path, digest: Digest, size_bytes: int) -> None:
    try:
        found = blob_path(layout, digest).stat().st_size
    except OSError as error:
        raise storage_error(f"read blob {digest} of {layout}", error) from error
    if found != size_bytes:
        raise StorageError(f"blob {digest} of {layout} has {found} bytes, expected {size_bytes}: build it again")
