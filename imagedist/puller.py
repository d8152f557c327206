"""A reference becomes a root filesystem: decode every layer at once, merge base first (design.md §4.5)."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Literal

from imagedist.fetch.source import Source
from imagedist.oci.manifest import Image, Layer, Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.store import Chain, OverlayStore
from imagedist.progress import Event, LayerSize, Observer, ignore
from imagedist.threads import first_error, in_thread, settled
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.stage import LayerStage, StagedTar
from imagedist.unpack.workers import ExtractedLayer, Workers

Strategy = Literal["parallel", "serial"]

_DECODE_THREADS = max(4, os.cpu_count() or 1)


class Puller:
    """Joins a source of images with the unpack engine and a containers/storage store.

    Args:
        source: where manifests and blobs come from.
        strategy: ``parallel`` (all layers at once) or ``serial`` (decompress one layer, apply it, then the
            next: what Docker does; kept for comparison).
    """

    def __init__(
        self,
        source: Source,
        store: OverlayStore,
        ramdisk: Ramdisk,
        workers: Workers,
        *,
        strategy: Strategy = "parallel",
    ) -> None:
        self._source = source
        self._store = store
        self._ramdisk = ramdisk
        self._workers = workers
        self._strategy = strategy
        self._threads = ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode")

    async def pull(self, reference: Reference, platform: Platform, observe: Observer = ignore) -> Image:
        """Makes the image ready in the store. Nothing is visible before the last layer was merged.

        Raises:
            ImagedistError: any branch of the tree; what was half built is gone.
        """
        started = time.monotonic()
        image = await self._source.resolve(reference, platform)
        stop = threading.Event()
        async with in_thread(self._store.building(image, [str(reference)], stop=stop), stop) as chain:
            observe(_resolved(reference, image, chain))
            if self._strategy == "parallel":
                await self._build_all_at_once(chain, reference, observe)
            else:
                await self._build_one_by_one(chain, reference, observe)
            fetched_bytes = sum(layer.descriptor.size_bytes for layer in chain.missing)
        seconds = round(time.monotonic() - started, 3)
        observe(Event(event="done", reference=str(reference), image=image.id.hex, seconds=seconds, bytes=fetched_bytes))
        return image

    async def _build_all_at_once(self, chain: Chain, reference: Reference, observe: Observer) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                building = [group.create_task(self._build(layer, chain, reference, observe)) for layer in chain.missing]
                for layer, task in zip(chain.missing, building, strict=True):  # base first: the only serial part
                    await self._merge(chain, layer, await task, observe)
        except BaseExceptionGroup as failures:
            raise first_error(failures) from None

    async def _build_one_by_one(self, chain: Chain, reference: Reference, observe: Observer) -> None:
        for layer in chain.missing:
            extracted = await self._build(layer, chain, reference, observe)
            await self._merge(chain, layer, extracted, observe)

    async def _merge(self, chain: Chain, layer: Layer, extracted: ExtractedLayer, observe: Observer) -> None:
        await settled(asyncio.to_thread(chain.merge, extracted))
        observe(Event(event="merged", layer=layer.descriptor.digest))

    async def _build(self, layer: Layer, chain: Chain, reference: Reference, observe: Observer) -> ExtractedLayer:
        staged = await self._stage(layer, reference, observe)
        try:
            extracting = self._workers.extract(staged, chain.directory(layer))
            extracted = await settled(asyncio.wrap_future(extracting))
        finally:
            staged.release()
        observe(Event(event="extracted", layer=layer.descriptor.digest))
        return extracted

    async def _stage(self, layer: Layer, reference: Reference, observe: Observer) -> StagedTar:
        loop = asyncio.get_running_loop()
        stage = LayerStage(self._ramdisk, layer)
        try:
            async with aclosing(self._source.chunks(reference, layer.descriptor)) as chunks:
                async for chunk in chunks:
                    # One chunk at a time: a slow decoder slows its own fetch, nothing piles up.
                    await settled(loop.run_in_executor(self._threads, stage.feed, chunk))
                    observe(Event(event="fetched", layer=layer.descriptor.digest, bytes=len(chunk)))
            return await settled(loop.run_in_executor(self._threads, stage.finish))
        except BaseException:
            stage.abort()
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def _resolved(reference: Reference, image: Image, chain: Chain) -> Event:
    missing = {layer.chain_id for layer in chain.missing}
    layers = tuple(
        LayerSize(
            digest=layer.descriptor.digest,
            size_bytes=layer.descriptor.size_bytes,
            is_present=layer.chain_id not in missing,
        )
        for layer in image.layers
    )
    return Event(
        event="resolved",
        reference=str(reference),
        image=image.id.hex,
        manifest=image.manifest_digest,
        layers=layers,
    )
