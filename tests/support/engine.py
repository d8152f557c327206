"""A small unpack engine in a test's directory, and a source that serves a built image."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from imagedist.config import StorageTable, UnpackTable
from imagedist.engine import Engine, opened, started_workers
from imagedist.oci.bulk import Consume, deliver_chunks
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.manifest import Descriptor
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.store import Durability
from imagedist.unpack.workers import Workers, _Request, _Work
from tests.support import layers


@contextmanager
def engine(directory: Path, budget_bytes: int = 64 << 20, durability: Durability = "none") -> Iterator[Engine]:
    storage = StorageTable(root=directory / "storage", durability=durability, used_by=())
    unpack = UnpackTable.model_validate(
        {"ramdisk": directory / "ramdisk", "ramdisk_budget": budget_bytes, "workers": 2, "nice": 0}
    )
    with started_workers(unpack) as workers, opened(storage, unpack, workers) as made:
        yield made


class BuiltSource:
    """A ``fetch.source.Source`` over a built image; ``wrong`` blobs arrive changed, ``cut`` ones end early."""

    is_verified = False

    def __init__(self, built: layers.BuiltImage, *, wrong: Digest | None = None, cut: Digest | None = None) -> None:
        self._built = built
        self._wrong = wrong
        self._cut = cut
        self.asked: list[Digest] = []

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        return self._built.image

    async def deliver(self, reference: Reference, descriptor: Descriptor, consume: Consume, threads: Executor) -> None:
        await deliver_chunks(self.chunks(reference, descriptor), consume, threads)

    async def chunks(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        self.asked.append(descriptor.digest)
        content = self._built.blobs[descriptor.digest]
        if descriptor.digest == self._wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if descriptor.digest == self._cut:
            content = content[: len(content) // 2]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]


class GatedWorkers(Workers):
    """Asks its processes when the test says so: between what was decided and what is done."""

    def __init__(self, count: int) -> None:
        self.reached, self.gate = threading.Event(), threading.Event()
        super().__init__(count)

    def _next(self, index: int) -> tuple[_Work, _Request] | None:
        chosen = super()._next(index)
        if chosen is not None:
            self.reached.set()
            self.gate.wait()
        return chosen
