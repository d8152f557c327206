"""Images through the real pipeline: fetch, stage, worker processes, merge, store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagedist.engine import Engine
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.store import Durability, StoredImage
from imagedist.overlay.view import View
from imagedist.puller import Puller
from tests.support import layers
from tests.support.engine import BuiltSource, engine

NAME = "registry.example/app:1"


class Pipeline:
    """One engine for many images, which all have the same name: the last one pulled has it.

    Attributes:
        engine: its parts.
    """

    def __init__(self, made: Engine) -> None:
        self.engine = made
        self._unpacked: StoredImage | None = None

    def pull(self, built: layers.BuiltImage, **source: Any) -> StoredImage:
        """Raises what the pull raises; ``source``: faults of ``BuiltSource``."""
        puller = Puller(BuiltSource(built, **source), self.engine.store, self.engine.ramdisk, self.engine.workers)
        try:
            asyncio.run(puller.pull(Reference.parse(NAME), Platform.of_this_machine()))
        finally:
            puller.close()
        return self.engine.store.find(built.image.id.hex)

    def unpack(self, tars: Sequence[bytes], compression: str = "none") -> View:
        """The merged view of uncompressed layers, until the next one.

        Else each case would find layers of others unpacked already, and a pull takes a second once there are thousands.
        """
        if self._unpacked is not None:
            self.engine.store.remove(self._unpacked.id)
            self._unpacked = None
        self._unpacked = self.pull(layers.image(tars, NAME, compression))
        return View(self.engine.store.diffs(self._unpacked))


@contextmanager
def pipeline(directory: Path, budget_bytes: int = 64 << 20, durability: Durability = "none") -> Iterator[Pipeline]:
    with engine(directory, budget_bytes, durability) as made:
        yield Pipeline(made)
