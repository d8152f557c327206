"""An image in an OCI image layout directory (image-layout.md): written whole or not at all, read back verified."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagedist.demo.layer import WrittenLayer
from imagedist.errors import ImagedistError, InputError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_document,
    resolve,
)
from imagedist.oci.platform import Platform

_RECIPE = "recipe.json"
"""In a layout of ours: what it was built from."""

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


def built_once(directory: Path, recipe: Mapping[str, object], write: Callable[[Path], None]) -> BuiltImage:
    """The image of a recipe: the complete one that is in ``directory``, else a new one, complete or not there.

    Args:
        directory: the layout; replaced if it holds another recipe's image, and nothing else. Its parent must be
            writable.
        recipe: whatever the image's bytes depend on; JSON values.
        write: fills a fresh directory (with ``blobs/sha256`` in it); one writer at a time.

    Raises:
        InputError: there is something else in the directory. StorageError: no space or no permission.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / _RECIPE).exists():
        raise InputError(f"cannot build an image in {directory}: there is something else in it; name another place")
    try:
        with _building(directory) as fresh:
            built = _reuse(directory, recipe)
            if built is not None:
                return built
            (fresh / "blobs/sha256").mkdir(parents=True)
            write(fresh)
            (fresh / _RECIPE).write_text(json.dumps(recipe))
            if directory.exists():
                shutil.rmtree(directory)
            fresh.rename(directory)
    except OSError as error:
        raise storage_error(f"build the image in {directory}", error) from error
    return open_layout(directory)


@contextlib.contextmanager
def _building(directory: Path) -> Iterator[Path]:
    """A private directory beside the layout, one builder at a time; what a killed builder left goes first."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.building")
    lock = os.open(directory.with_name(f".{directory.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(fresh, ignore_errors=True)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        os.close(lock)


def _reuse(directory: Path, recipe: Mapping[str, object]) -> BuiltImage | None:
    try:
        if json.loads((directory / _RECIPE).read_text()) != json.loads(json.dumps(recipe)):
            return None
        return open_layout(directory)
    except (OSError, ValueError, ImagedistError):
        return None  # not there, cut short or changed: built anew


def write_image(layout: Path, layers: Sequence[tuple[str, WrittenLayer]], name: str, command: Sequence[str]) -> None:
    """Moves gzip layers, base first, into a layout and completes it.

    Args:
        layers: what made each (the image's history) and the layer, on the layout's file system.
        name: ``repository:tag``.
        command: what a container of it runs.
    """
    for _, layer in layers:
        layer.path.rename(blob_path(layout, layer.digest))
    platform = Platform.of_this_machine()
    config = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for _, layer in layers]},
        "history": [{"created_by": made_by} for made_by, _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": put_json(layout, config, OCI_CONFIG),
        "layers": [
            {"mediaType": f"{OCI_LAYER}+gzip", "digest": str(layer.digest), "size": layer.size_bytes}
            for _, layer in layers
        ],
    }
    write_index(layout, put_json(layout, manifest, OCI_MANIFEST), name)


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
