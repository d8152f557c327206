"""Unpacks built images with the real parts, in this process or with workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagedist.overlay.merge import complete
from imagedist.overlay.store import OverlayStore
from imagedist.overlay.tree import Describer, Root, sha256_of, walk
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


def summary(root: Root, expected: dict[str, Summary]) -> dict[str, Summary]:
    """As ``oracle.summary``; times and a root that no layer described are as expected, there is nothing to compare."""
    describer, found = Describer(), dict[str, Summary]()
    for path, one in walk(root):
        entry = describer.describe(path, one)
        assert entry.owner is not None
        found[path] = Summary(
            entry.kind,
            entry.mode,
            sha256_of(one) if entry.kind == "file" else "",
            entry.target,
            entry.owner,
            entry.device,
            entry.mtime_ns if path not in expected or expected[path].mtime_ns is not None else None,
            entry.xattrs,
            entry.linked_to,
        )
    if "" not in expected:
        del found[""]
    return found


def put(store: OverlayStore, built: layers.BuiltImage, tars: Sequence[bytes], names: Sequence[str]) -> None:
    """Stores an image built of these uncompressed tars."""
    by_diff_id = {layer.diff_id: tar for layer, tar in zip(built.image.layers, tars, strict=True)}
    with store.building(built.image, names) as chain:
        for layer in chain.missing:
            directory = chain.directory(layer)
            directory.rmdir()
            chain.merge(extract(by_diff_id[layer.diff_id], directory))
