"""A reference becomes a root filesystem: decode every layer at once, merge base first (design.md §4.5)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from imagedist.errors import ImagedistError
from imagedist.fetch.source import Source
from imagedist.oci.image import Image, Layer
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.store import Chain, OverlayStore
from imagedist.progress import Event, LayerSize, Observer, ignore
from imagedist.stages import Stages
from imagedist.threads import first_error, in_thread, settled
from imagedist.unpack.ramdisk import Ramdisk
from imagedist.unpack.stage import LayerStage
from imagedist.unpack.turns import Turns
from imagedist.unpack.workers import ExtractedLayer, Extracting, Workers

Strategy = Literal["parallel", "staged", "serial"]

_MAX_LAYERS = 16
"""Layers that arrive at a time: each has a thread that receives and decodes, and holds half a megabyte."""


class Puller:
    """Joins a source of images with the unpack engine and a containers/storage store.

    Args:
        source: where manifests and blobs come from.
        strategy: ``parallel``: every layer is extracted while it arrives, all at once. For comparison: ``staged``: all
            layers are decoded to the ramdisk at once, then extracted and merged one by one; ``serial``: decompress one
            layer, apply it, then the next, as Docker does.
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
        self._threads = ThreadPoolExecutor(_MAX_LAYERS, "decode", workers.placement.confine_thread)
        self._turns = Turns(len(workers.placement.cpus or os.sched_getaffinity(0)))

    async def pull(
        self, reference: Reference, platform: Platform, observe: Observer = ignore, source: Source | None = None
    ) -> Image:
        """Makes the image ready in the store. Nothing is visible before the last layer was merged.

        Args:
            source: for this pull alone.

        Raises:
            ImagedistError: any branch of the tree; what was half built is gone.
        """
        started = time.monotonic()
        source = source or self._source
        image = await source.resolve(reference, platform)
        stop = threading.Event()
        async with in_thread(self._store.building(image, [str(reference)], stop=stop), stop) as chain:
            observe(_resolved(reference, image, chain))
            stages = Stages(observe)
            closing = contextlib.ExitStack()
            try:
                async with asyncio.TaskGroup() as group:
                    telling = group.create_task(stages.tell_regularly())
                    with contextlib.ExitStack() as ending:
                        await self._build(_Build(chain, source, reference, stages, ending, closing, group))
                    telling.cancel()
            except BaseExceptionGroup as failures:
                raise first_error(failures) from None
            finally:
                await settled(asyncio.to_thread(closing.close))
        stages.done(str(reference), image.id.hex, time.monotonic() - started)
        return image

    async def _build(self, build: _Build) -> None:
        layers = build.chain.missing
        if self._strategy == "serial":
            for layer in layers:
                await self._apply(build, layer, await self._staged(build, layer))
            return
        # The biggest first: its bytes are asked for first, and it has the longest way to go.
        order = sorted(layers, key=lambda layer: -layer.descriptor.size_bytes)
        if self._strategy == "parallel":
            extracting = {layer: build.group.create_task(self._extracted(build, layer)) for layer in order}
            for layer in layers:  # base first: the only serial part
                await self._merge(build, layer, await extracting[layer])
        else:
            staging = {layer: build.group.create_task(self._staged(build, layer)) for layer in order}
            for layer in layers:
                await self._apply(build, layer, await staging[layer])

    async def _extracted(self, build: _Build, layer: Layer) -> ExtractedLayer:
        """Extracts a layer while it arrives."""
        stage = self._new_stage(build, layer)
        async with self._extracting(build, layer, stage) as extracting:
            await self._decode(build, layer, stage)
            return await self._result(build, layer, stage, extracting)

    async def _staged(self, build: _Build, layer: Layer) -> LayerStage:
        """Decodes a whole layer into the ramdisk."""
        stage = self._new_stage(build, layer)
        await self._decode(build, layer, stage)
        return stage

    def _new_stage(self, build: _Build, layer: Layer) -> LayerStage:
        workers, is_verified = self._workers, build.source.is_verified
        stage = LayerStage(
            self._ramdisk,
            layer,
            workers.limits,
            workers.spare,
            self._turns,
            is_verified=is_verified,
            spent=build.stages.spent,
        )
        build.closing.callback(stage.close)
        return stage

    async def _apply(self, build: _Build, layer: Layer, stage: LayerStage) -> None:
        async with self._extracting(build, layer, stage) as extracting:
            extracted = await self._result(build, layer, stage, extracting)
        await self._merge(build, layer, extracted)

    async def _merge(self, build: _Build, layer: Layer, extracted: ExtractedLayer) -> None:
        started = time.monotonic()
        await settled(asyncio.to_thread(build.chain.merge, extracted))
        build.stages.spent("merge", time.monotonic() - started)
        build.stages.merged(layer.descriptor.digest)

    async def _decode(self, build: _Build, layer: Layer, stage: LayerStage) -> None:
        stages, digest = build.stages, layer.descriptor.digest
        before = time.monotonic()

        def consume(chunk: bytes | memoryview) -> None:
            nonlocal before
            stages.spent("fetch", time.monotonic() - before)
            decoded_bytes = stage.tar_bytes
            stage.feed(chunk)
            before = time.monotonic()
            stages.counted("fetched", digest, len(chunk))
            stages.counted("decoded", digest, stage.tar_bytes - decoded_bytes)

        await build.source.deliver(build.reference, layer.descriptor, consume, self._threads)
        # Not by the decoders' threads: those may be taken by other layers until these have arrived.
        await settled(asyncio.to_thread(stage.finish))

    @contextlib.asynccontextmanager
    async def _extracting(self, build: _Build, layer: Layer, stage: LayerStage) -> AsyncIterator[Extracting]:
        """Ends only when no worker touches the layer any more."""

        def consumed(position: int) -> None:
            stage.consumed(position)
            build.stages.extracted_to(layer.descriptor.digest, position)

        extracting = self._workers.begin(stage.path, build.chain.directory(layer), consumed)
        try:
            build.ending.callback(extracting.cancel)
            stage.hand_to(extracting)
            yield extracting
        finally:
            extracting.cancel()
            with contextlib.suppress(ImagedistError):
                await settled(asyncio.wrap_future(extracting.result))

    async def _result(self, build: _Build, layer: Layer, stage: LayerStage, extracting: Extracting) -> ExtractedLayer:
        extracted = await asyncio.wrap_future(extracting.result)  # cancelled: ``_extracting`` sees to its end
        await settled(asyncio.to_thread(stage.close))  # giving back many pages takes a while
        build.stages.spent("extract", extracting.seconds)
        build.stages.extracted(layer.descriptor.digest, stage.tar_bytes)
        return extracted

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Build:
    """What one pull is about.

    Attributes:
        ending: cancels the extractions as soon as the pull fails or is cancelled, so that no decoder waits for them.
        closing: gives back the stages, at last; slow.
    """

    chain: Chain
    source: Source
    reference: Reference
    stages: Stages
    ending: contextlib.ExitStack
    closing: contextlib.ExitStack
    group: asyncio.TaskGroup


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
