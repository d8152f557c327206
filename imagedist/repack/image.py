"""The verb: every layer of an image compressed again and checked, then, last of all, the image put in its place."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

from imagedist.errors import IntegrityError, NotFoundError, UnacceptableError
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image, Layer
from imagedist.oci.images import CONFIG_LIMIT_BYTES
from imagedist.oci.manifest import Index, choose_platform, parse_document, resolve
from imagedist.oci.platform import Platform
from imagedist.progress import Event, LayerSize, Observer, ignore
from imagedist.repack.documents import is_attestation, repacked_index, repacked_manifest
from imagedist.repack.layer import LayerRepacker, RepackedLayer
from imagedist.repack.place import Document, Place
from imagedist.repack.recipe import Recipe
from imagedist.threads import first_error, in_thread, settled

_LAYERS_AT_ONCE = 2
"""pgzip and zstd use every CPU for one layer; the second keeps them busy while the first waits for bytes."""


async def repack(
    source: Place, target: Place, recipe: Recipe, platform: Platform | None = None, observe: Observer = ignore
) -> Document:
    """Writes a repacked image. Nothing is put into ``target`` before every layer matched its diff ID.

    Args:
        platform: this one only; None: all there are.

    Returns:
        The new manifest or index.

    Raises:
        ImagedistError: any branch of the tree.
    """
    started = time.monotonic()
    root = await source.document()
    images = await _images(source, root, platform)
    layers = {layer.descriptor.digest: layer for image in images.values() for layer in image.layers}
    observe(Event(event="resolved", reference=str(source), manifest=root.digest, layers=_sizes(layers)))
    async with in_thread(target.scratch(), threading.Event()) as scratch:
        repacked = await _repack_layers(source, layers, recipe, scratch, observe)
        manifests = {
            digest: repacked_manifest(
                image.manifest_bytes, [repacked[layer.descriptor.digest] for layer in image.layers], recipe.media_type
            )
            for digest, image in images.items()
        }
        for new in {new.digest: new for new in repacked.values()}.values():
            await target.put_blob(new.digest, new.path)
        for image in images.values():
            await target.put_blob(image.id, image.config_bytes)
        is_index = platform is None and set(images) != {root.digest}
        if is_index:
            for manifest in manifests.values():
                await target.put_document(manifest)
        result = repacked_index(root.body, manifests) if is_index else next(iter(manifests.values()))
        await target.finish(result)
    observe(
        Event(
            event="done",
            reference=str(target),
            image=next(iter(images.values())).id.hex,
            manifest=result.digest,
            seconds=round(time.monotonic() - started, 3),
            bytes=sum(layer.descriptor.size_bytes for layer in layers.values()),
            decoded_bytes=sum(new.plain_bytes for new in repacked.values()),
        )
    )
    return result


async def _images(source: Place, root: Document, platform: Platform | None) -> dict[Digest, Image]:
    """The images to repack, by the digest of their manifest."""
    about = str(source)
    document = parse_document(root.media_type, root.body, about)
    if not isinstance(document, Index):
        return {root.digest: await _image(source, root)}
    if platform is not None:
        entries = [choose_platform(document, platform, about)]
    else:
        entries = [entry for entry in document.manifests if not is_attestation(entry)]
    if not entries:
        raise NotFoundError(f"{about} lists no image", "MANIFEST_UNKNOWN")
    images: dict[Digest, Image] = {}
    for entry in entries:
        found = await source.document(entry.digest)
        if len(found.body) != entry.size_bytes:
            raise IntegrityError(f"manifest {entry.digest} of {about} has not the size that its index says")
        images[entry.digest] = await _image(source, Document(found.body, entry.media_type, found.digest))
    return images


async def _image(source: Place, found: Document) -> Image:
    about = str(source)
    manifest = parse_document(found.media_type, found.body, about)
    if isinstance(manifest, Index):
        raise UnacceptableError(f"{about} has an index within its index: expected image manifests")
    config = await source.small_blob(manifest.config.digest, CONFIG_LIMIT_BYTES)
    return resolve(about, manifest, found.body, found.digest, config)


async def _repack_layers(
    source: Place, layers: Mapping[Digest, Layer], recipe: Recipe, scratch: Path, observe: Observer
) -> dict[Digest, RepackedLayer]:
    slots = asyncio.Semaphore(_LAYERS_AT_ONCE)
    with ThreadPoolExecutor(_LAYERS_AT_ONCE, thread_name_prefix="repack") as threads:

        async def one(layer: Layer) -> RepackedLayer:
            async with slots:
                return await _repack_layer(source, layer, recipe, scratch, threads, observe)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {digest: group.create_task(one(layer)) for digest, layer in layers.items()}
        except BaseExceptionGroup as failures:
            raise first_error(failures) from None
    return {digest: task.result() for digest, task in tasks.items()}


async def _repack_layer(
    source: Place, layer: Layer, recipe: Recipe, scratch: Path, threads: ThreadPoolExecutor, observe: Observer
) -> RepackedLayer:
    loop = asyncio.get_running_loop()
    descriptor = layer.descriptor
    cpus = len(os.sched_getaffinity(0))
    repacker = LayerRepacker(layer, recipe, scratch / descriptor.digest.hex, cpus)
    try:
        async with aclosing(source.chunks(descriptor)) as chunks:
            async for chunk in chunks:
                await settled(loop.run_in_executor(threads, repacker.feed, chunk))
                observe(Event(event="fetched", layer=descriptor.digest, bytes=len(chunk)))
        new = await settled(loop.run_in_executor(threads, repacker.finish))
    finally:
        await settled(loop.run_in_executor(threads, repacker.close))
    change = new.size_bytes / max(descriptor.size_bytes, 1) - 1
    message = f"layer {descriptor.digest.short} is {new.digest.short} as {recipe.compression}: {change:+.1%}"
    observe(Event(event="note", layer=descriptor.digest, bytes=new.size_bytes, message=message))
    return new


def _sizes(layers: Mapping[Digest, Layer]) -> tuple[LayerSize, ...]:
    return tuple(LayerSize(digest=digest, size_bytes=one.descriptor.size_bytes) for digest, one in layers.items())
