"""Small images in a store, for tests that want many of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from imagedist.overlay.store import OverlayStore
from tests.support import layers, unpacking
from tests.support.layers import BuiltImage, directory, file

BASE = layers.tar([directory("d"), file("d/base", b"base")])
APP = layers.tar([file("d/app", b"app")])
OTHER = layers.tar([file("d/other", b"other")])
NAME = "registry.example/app:1"
SECOND = "registry.example/other:1"


def build(*tars: bytes, compression: str = "gzip") -> BuiltImage:
    return layers.image(list(tars), compression=compression)


def put(store: OverlayStore, *tars: bytes, names: Sequence[str] = (NAME,), compression: str = "gzip") -> BuiltImage:
    built = build(*tars, compression=compression)
    unpacking.put(store, built, tars, names)
    return built


def begin(store: OverlayStore, built: BuiltImage, *tars: bytes) -> None:
    """Merges the first layers, then is interrupted."""
    with store.building(built.image, [NAME]) as chain:
        for layer, tar in zip(chain.missing, tars, strict=False):
            private = chain.directory(layer)
            private.rmdir()
            chain.merge(unpacking.extract(tar, private))
        raise KeyboardInterrupt


def random_layer(name: str, size_bytes: int) -> bytes:
    """One file that does not compress."""
    return layers.tar([file(name, os.urandom(size_bytes))])
