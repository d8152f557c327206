"""The images of a preheat on this node: what of them is here, and how the rest comes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import cast

from imagedist.agent.mirror import Mirror
from imagedist.agent.preheat_runtimes import NodeRuntimes
from imagedist.agent.preheat_state import KeptImage
from imagedist.agent.source import NodeSource
from imagedist.distribution.backend import Target
from imagedist.errors import FullError, ImagedistError, InputError, NotFoundError, SourceError, StorageError
from imagedist.oci.digest import Digest
from imagedist.oci.image import Image
from imagedist.oci.platform import Platform
from imagedist.oci.reference import Reference
from imagedist.overlay.images import stored_name
from imagedist.overlay.store import OverlayStore
from imagedist.preheat.rule import RUNTIMES
from imagedist.preheat.shapes import MAX_LAYERS, LayerReport, Order, Wanted
from imagedist.puller import Puller
from imagedist.runtimes.handover import Runtime
from imagedist.site import Site
from imagedist.store.blobs import BlobStore
from imagedist.threads import settled

_BLOBS_AT_ONCE = 3
_EXPANSION = 3
"""Unpacked over compressed bytes, as the store's quota guesses."""


class NodeImages:
    """
    Args:
        mirror: brings blobs to this node.
        blobs, images: the node's stores. puller: unpacks into ``images``.
    """

    def __init__(
        self,
        site: Site,
        mirror: Mirror,
        runtimes: NodeRuntimes,
        blobs: BlobStore,
        images: OverlayStore,
        puller: Puller,
    ) -> None:
        self._site = site
        self._mirror = mirror
        self._runtimes = runtimes
        self._blobs = blobs
        self._images = images
        self._puller = puller
        self._platform = Platform.of_this_machine()

    async def resolve(self, wanted: Wanted) -> KeptImage:
        """What an image consists of here. Raises as ``Source.resolve``."""
        return KeptImage.of(
            wanted.digest, await _Source(self._mirror, wanted).resolve(_reference(wanted), self._platform)
        )

    async def missing(self, wanted: Wanted, kept: KeptImage, places: Iterable[str]) -> dict[str, str]:
        """The places that lack the image now; with why it cannot be told, of those that do not say.

        Raises:
            StorageError: a store cannot be read.
        """
        found: dict[str, str] = {}
        for place in places:
            if place not in RUNTIMES:
                if not await settled(asyncio.to_thread(self._is_in, place, wanted, kept)):
                    found[place] = ""
                continue
            try:
                if not await self._is_listed(cast(Runtime, place), wanted, kept):
                    found[place] = ""
            except (InputError, SourceError) as error:
                found[place] = str(error)
        return found

    async def _is_listed(self, runtime: Runtime, wanted: Wanted, kept: KeptImage) -> bool:
        listed_as = await self._runtimes.listed(runtime, _reference(wanted))
        return listed_as in (kept.config, kept.manifest, kept.index)

    def layers(self, kept: KeptImage, unpacked: Collection[str]) -> tuple[LayerReport, ...]:
        """Each layer as it is now. Blocking.

        Args:
            unpacked: ``unpacked_layers()``.
        """
        return tuple(
            LayerReport(
                digest=layer.digest,
                size_bytes=layer.size_bytes,
                is_cached=self._has(layer.digest, layer.size_bytes),
                is_unpacked=layer.layer_id in unpacked,
            )
            for layer in kept.layers[:MAX_LAYERS]
        )

    def unpacked_layers(self) -> Collection[str]:
        """The ids of all layers in the overlay store. Blocking. Raises StorageError."""
        return self._images.layers()

    async def bring(self, order: Order, wanted: Wanted, kept: KeptImage, places: Iterable[str]) -> None:
        """Has an image where it is to be. A place that fails does not keep it from the others.

        Raises:
            FullError: less than the order's headroom would be left. ImagedistError: what else went wrong first.
        """
        failure: ImagedistError | None = None
        for place in places:
            try:
                await self._bring_to(place, order, wanted, kept)
            except ImagedistError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def _bring_to(self, place: str, order: Order, wanted: Wanted, kept: KeptImage) -> None:
        await settled(asyncio.to_thread(self._check_room, order, wanted, kept, place))
        if place == "blobs":
            await self._bring_blobs(wanted, kept)
        elif place == "storage":
            source = _Source(self._mirror, wanted)
            await self._puller.pull(_reference(wanted), self._platform, source=source)
        else:
            await self._bring_into(cast(Runtime, place), order, wanted, kept)

    async def keep_in_runtimes(self, order: Order, wanted: Wanted, is_kept: bool) -> None:
        """Raises InputError, SourceError."""
        for place in order.into:
            if place in RUNTIMES:
                await self._runtimes.keep(cast(Runtime, place), _reference(wanted), is_kept)

    def pin(self, images: Mapping[str, str]) -> None:
        """Image id → why it stays in the overlay store; all others need not. Blocking. Raises StorageError."""
        self._images.pin(images)

    def _is_in(self, place: str, wanted: Wanted, kept: KeptImage) -> bool:
        if place == "blobs":
            return all(self._has(digest, size_bytes) for digest, size_bytes in kept.blobs.items())
        if place != "storage":
            raise StorageError(f"this agent does not know the place {place}: it is of an older version than its site")
        images = self._images.images()
        image = next((image for image in images if image.id == kept.config.hex), None)
        # A name that somebody has given to a newer image since stays there: it is theirs.
        is_named = any(stored_name(wanted.reference) in each.names for each in images)
        return image is not None and image.layer_ids == tuple(layer.layer_id for layer in kept.layers) and is_named

    def _has(self, digest: Digest, size_bytes: int) -> bool:
        try:
            return self._blobs.size_bytes(digest) == size_bytes
        except NotFoundError:
            return False

    async def _bring_blobs(self, wanted: Wanted, kept: KeptImage) -> None:
        """Nobody reads them on their way, so the swarm may bring their pieces in any order."""
        reference = _reference(wanted)
        target = Target(reference.registry, reference.repository)
        gate = asyncio.Semaphore(_BLOBS_AT_ONCE)

        async def one(digest: Digest, size_bytes: int) -> None:
            if self._has(digest, size_bytes):
                return
            async with gate:
                blob = await self._mirror.open_blob(target, digest)
                try:
                    await blob.wait_verified()
                finally:
                    await blob.close()
            if not self._blobs.has(digest):
                raise FullError(f"no room for {digest.short} ({size_bytes} bytes) in the node's cache: raise its quota")

        bringing = [asyncio.create_task(one(digest, size_bytes)) for digest, size_bytes in kept.blobs.items()]
        try:
            await asyncio.gather(*bringing)
        finally:
            for task in bringing:
                task.cancel()
            await asyncio.wait(bringing)

    async def _bring_into(self, runtime: Runtime, order: Order, wanted: Wanted, kept: KeptImage) -> None:
        reference = _reference(wanted)
        if not await self._is_listed(runtime, wanted, kept):  # another attempt may have brought it
            await self._runtimes.bring(runtime, reference, await self._site.prefix(reference.registry))
        if order.is_pinned:
            await self._runtimes.keep(runtime, reference, True)

    def _check_room(self, order: Order, wanted: Wanted, kept: KeptImage, place: str) -> None:
        blobs_bytes = sum(size for digest, size in kept.blobs.items() if not self._has(digest, size))
        needs: dict[int, tuple[Path, int]] = {}
        _add(needs, self._blobs.root, blobs_bytes)
        if place == "storage":
            present = self.unpacked_layers()
            layers_bytes = sum(layer.size_bytes for layer in kept.layers if layer.layer_id not in present)
            _add(needs, self._images.root, layers_bytes * _EXPANSION)
        for path, need_bytes in needs.values():
            status = os.statvfs(path)
            free_bytes = status.f_bavail * status.f_frsize
            if need_bytes and free_bytes - need_bytes < order.headroom_bytes:
                raise FullError(
                    f"no room for {wanted.reference}: it takes about {need_bytes} bytes of the disk of {path}, "
                    f"{free_bytes} are free and {order.headroom_bytes} stay free"
                )


class _Source(NodeSource):
    """Takes a tag for what it meant when the run began."""

    def __init__(self, mirror: Mirror, wanted: Wanted) -> None:
        super().__init__(mirror)
        self._digest = wanted.digest

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        return await super().resolve(reference.at(self._digest), platform)


def _reference(wanted: Wanted) -> Reference:
    return Reference.parse(wanted.reference)


def _add(needs: dict[int, tuple[Path, int]], path: Path, size_bytes: int) -> None:
    """By file system: two directories may share one."""
    device = os.stat(path).st_dev
    needs[device] = (path, size_bytes + needs.get(device, (path, 0))[1])
