"""Writes built images into OCI image layouts."""

from __future__ import annotations

from pathlib import Path

from imagedist.oci.layout import Layout
from tests.support.layers import BuiltImage


def write(built: BuiltImage, directory: Path, name: str) -> Layout:
    layout = Layout(directory)
    for digest, content in built.blobs.items():
        layout.put(digest, content)
    layout.put(built.image.manifest_digest, built.image.manifest_bytes)
    entry = {"mediaType": built.image.manifest.media_type, "digest": str(built.image.manifest_digest)}
    layout.name(name, {**entry, "size": len(built.image.manifest_bytes)})
    return layout
