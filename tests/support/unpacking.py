"""Unpacks built images with the real parts, in this process or with workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagedist.overlay import view
from imagedist.overlay.merge import complete
from imagedist.overlay.store import OverlayStore
from imagedist.unpack.extract import ExtractedLayer, extract_layer
from tests.support import layers
from tests.support.oracle import Summary


def extract(tar: bytes, directory: Path) -> ExtractedLayer:
    """Extracts an uncompressed tar into a fresh directory."""
    directory.mkdir(parents=True)
    with tempfile.NamedTemporaryFile() as file:
        file.write(tar)
        file.flush()
        return extract_layer(Path(file.name), directory)


def stack(tars: Sequence[bytes], directory: Path) -> list[Path]:
    """Extracts and completes layers; returns their ``diff`` directories, base first."""
    diffs: list[Path] = []
    for number, tar in enumerate(tars):
        extracted = extract(tar, directory / str(number))
        complete(extracted, diffs)
        diffs.append(directory / str(number) / "diff")
    return diffs


def summary(tree: dict[str, view.TreeEntry]) -> Summary:
    """As ``oracle.summary``."""
    return {path: (entry.kind, entry.mode, entry.sha256, entry.target) for path, entry in tree.items()}


def put(store: OverlayStore, built: layers.BuiltImage, tars: Sequence[bytes], names: Sequence[str]) -> None:
    """Stores an image built of these uncompressed tars."""
    by_diff_id = {layer.diff_id: tar for layer, tar in zip(built.image.layers, tars, strict=True)}
    with store.building(built.image, names) as chain:
        for layer in chain.missing:
            directory = chain.directory(layer)
            directory.rmdir()
            chain.merge(extract(by_diff_id[layer.diff_id], directory))
