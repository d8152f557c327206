"""The node's image store: builds chains of layers, lists, mounts and removes images (design.md §4.4, §4.5)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.locking import LOCK_TIMEOUT_SECONDS, PrivateDirectory
from imagedist.oci.image import Image, Layer, layer_ids
from imagedist.overlay import gc, mounts, quota
from imagedist.overlay.durability import writing_back
from imagedist.overlay.gc import Collected
from imagedist.overlay.images import StoredImage, stored_name
from imagedist.overlay.layers import Layers
from imagedist.overlay.locks import ChainLocks
from imagedist.overlay.merge import Extracted, complete
from imagedist.overlay.parts import Parts, stored_image
from imagedist.overlay.records import Record
from imagedist.overlay.removal import discard_unneeded, distrust_lost, layers_of_others, remove_image
from imagedist.overlay.tree import TreeEntry, tree

__all__ = ["Chain", "Collected", "OverlayStore", "StoredImage"]

Durability = Literal["none", "image"]


class OverlayStore:
    """A containers/storage ``overlay`` store at ``root``; our own things are in ``root/imagedist``.

    Several processes and threads may use one store. A kill at any point leaves either the old store or the new one.

    Args:
        durability: ``image``: an image record is written only after its layers are on the disk, and is there itself
            when ``building`` ends; ``none``: no sync, what the kernel has not written is lost with the power (not with
            the process).
        used_by: other containers/storage stores that have this one as an additional image store.
        quota_bytes: of the layers (``overlay/quota.py`` says how they count); unused images are evicted, oldest first.
            None: no bound.
    """

    def __init__(
        self,
        root: Path,
        *,
        durability: Durability = "image",
        used_by: Sequence[Path] = (),
        quota_bytes: int | None = None,
    ) -> None:
        self.root = root.absolute()
        self._quota_bytes = quota_bytes
        self._parts = Parts.at(self.root, durability == "image", used_by)
        self._parts.prepare()

    @contextlib.contextmanager
    def building(
        self,
        image: Image,
        names: Sequence[str],
        *,
        timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        stop: threading.Event | None = None,
    ) -> Iterator[Chain]:
        """Blocks until nobody else on this machine builds a layer of the image; then the chain is ours to build.

        Leaving cleanly records the image under ``names``, also when nothing was missing; leaving by an exception
        removes what was private. Layers merged by then stay, for the next pull.

        Raises:
            StorageError: locked for longer than ``timeout_seconds``, ``stop`` was set, the disk failed, the quota does
                not hold the image, or the block ended with layers missing.
        """
        parts = self._parts
        parts.format.claim()
        mounts.unbind(parts.layers.overlay)
        distrust_lost(parts)
        ids = layer_ids([layer.diff_id for layer in image.layers])
        with parts.locks() as locks:
            for identity in (*ids, image.id.hex):
                locks.use(identity, timeout_seconds, stop)
            missing = self._lock_missing(ids, locks, timeout_seconds, stop)
            with contextlib.closing(PrivateDirectory(parts.own / "building")) as private:
                for layer_id in missing:
                    parts.layers.discard(layer_id, private.path)
                chain = Chain(image, ids, missing, parts.layers, locks, private.path)
                if self._quota_bytes is not None and missing:
                    quota.make_room(parts, self._quota_bytes, image, ids, chain.missing)
                note = parts.unsynced.note(private.path.name, missing) if parts.is_durable and missing else None
                with writing_back(parts.own) if note else contextlib.nullcontext():
                    yield chain
                if not chain.is_complete:
                    raise StorageError(f"cannot store {image.reference}: not every missing layer was merged")
                if self._quota_bytes is not None and missing:
                    self._hold_quota(self._quota_bytes, image, ids, missing, locks, private.path)
                are_new = parts.images.write_documents(image)
                if parts.is_durable:
                    parts.unsynced.settle(note, ids, is_forced=are_new)
                parts.images.record(image, ids[-1] if ids else "", [stored_name(one) for one in names])
                parts.note_use(image.id.hex)

    def _hold_quota(
        self, quota_bytes: int, image: Image, ids: Sequence[str], missing: Sequence[str], locks: ChainLocks, trash: Path
    ) -> None:
        """An image that does not fit gives its space back, but for layers that another build waits for."""
        try:
            quota.hold(self._parts, quota_bytes, image, ids)
        except StorageError:
            held = [one for one in missing if locks.try_remove(one)]
            # Looked at now that they are locked: another build has made an image of some meanwhile, perhaps.
            kept = layers_of_others(self._parts, image.id.hex)
            discard_unneeded(self._parts, [one for one in held if one not in kept], trash)
            raise

    def _lock_missing(
        self, ids: Sequence[str], locks: ChainLocks, timeout_seconds: float, stop: threading.Event | None
    ) -> list[str]:
        """Base first, so that two chains that share layers never wait for each other in a circle."""
        missing: list[str] = []
        layers = self._parts.layers
        present = layers.present()
        for layer_id in ids:
            if layer_id in present:
                continue
            locks.build(layer_id, timeout_seconds, stop)
            if layer_id in layers.present():
                locks.end_build(layer_id)  # whoever held it has built it meanwhile
            else:
                missing.append(layer_id)
        return missing

    def images(self) -> list[StoredImage]:
        """Every image of the store."""
        return self._parts.stored()

    def find(self, name_or_id: str) -> StoredImage:
        """By name, reference or id.

        Raises:
            NotFoundError: there is none; names what there is. InputError: an ambiguous id.
        """
        return stored_image(self._parts.images.find(name_or_id), self._parts.layers.present())

    def manifest_bytes(self, image: StoredImage) -> bytes:
        return self._parts.images.document({"id": image.id}, "manifest")

    def config_bytes(self, image: StoredImage) -> bytes:
        return self._parts.images.document({"id": image.id}, f"sha256:{image.id}")

    def diffs(self, image: StoredImage) -> tuple[Path, ...]:
        """Its layer directories, base first: what ``tree.tree`` and a mount are made of."""
        return tuple(self._parts.layers.diff(layer_id) for layer_id in image.layer_ids)

    def tree(self, image: StoredImage, *, with_owner: bool = False) -> dict[str, TreeEntry]:
        """Its root file system, without mounting it."""
        return tree(self.diffs(image), with_owner=with_owner)

    def remove(self, name_or_id: str) -> StoredImage | None:
        """Takes the name off; with the last name, or by id, removes the image and the layers nobody else needs.

        Returns:
            The image, if it is gone; None: it is still there under other names.

        Raises:
            NotFoundError: there is none. InputError: it is in use; names by whom.
        """
        record = self._parts.images.find(name_or_id)
        image = stored_image(record, self._parts.layers.present())
        name = _name_meant(record, name_or_id)
        if name is None and "@" in name_or_id and len(image.names) > 1:
            raise InputError(
                f"{name_or_id} has {len(image.names)} names ({', '.join(image.names)}): "
                f"remove them by name, or the image by its id {image.id[:12]}"
            )
        if name is not None and self._parts.images.untag(image.id, name):
            return None
        mounts.unbind(self._parts.layers.overlay)
        remove_image(self._parts, image)
        return image

    def gc(
        self, *, quota_bytes: int | None = None, scratch: Sequence[Path] = (), dry_run: bool = False
    ) -> list[Collected]:
        """Removes what killed processes left and layers that no image refers to; then evicts unused images, oldest
        first, until the store is within its quota. Never what is mounted, used by a store of ``used_by``, or locked by
        a build.

        Args:
            quota_bytes: for this time; None: the store's own.
            scratch: further directories of private directories, such as the ramdisk's.
            dry_run: only say what would go.

        Raises:
            StorageError: the disk failed; what was removed by then is gone.
        """
        if not dry_run:
            mounts.unbind(self._parts.layers.overlay)
        collected = gc.collect(self._parts, scratch, dry_run=dry_run)
        limit_bytes = self._quota_bytes if quota_bytes is None else quota_bytes
        if limit_bytes is not None:
            with self._parts.evicting():
                collected += quota.evict(self._parts, limit_bytes, dry_run=dry_run)
        return collected

    def layers(self) -> frozenset[str]:
        """The ids of all layers that are whole. Raises StorageError."""
        return frozenset(self._parts.layers.present())

    def pin(self, reasons: Mapping[str, str]) -> None:
        """Makes these the images that stay whatever happens, and why: image id → reason. Raises StorageError."""
        self._parts.pins.replace(reasons)

    def used_bytes(self) -> int:
        """What the layers take of the disk, each once: what a quota counts."""
        return quota.used_bytes(self._parts)

    def mount(self, image: StoredImage) -> Path:
        """Mounts the root file system read-only (idempotent) and returns where.

        Raises:
            StorageError: not root, or the kernel refuses.
        """
        if not image.layer_ids:
            raise StorageError(f"cannot mount {image.id[:12]}: it has no layers")
        layers = self._parts.layers
        lowers = [f"l/{layers.link(layer_id)}" for layer_id in reversed(image.layer_ids)]
        if len(lowers) == 1:
            lowers.append(f"{image.layer_ids[0]}/empty")
        target = self._parts.mount_point(image.id)
        with self._parts.locks() as locks:
            locks.use(image.id, LOCK_TIMEOUT_SECONDS, None)  # nobody takes the mount point away for empty
            mounts.mount(layers.overlay, lowers, target)
        self._parts.note_use(image.id)
        return target

    @contextlib.contextmanager
    def mounted(self, image: StoredImage) -> Iterator[Path]:
        """The root file system, mounted for the length of a ``with`` block (longer, if it was mounted before).

        Raises:
            StorageError: as ``mount`` and ``umount``.
        """
        was_mounted = self._parts.mount_point(image.id).is_mount()
        path = self.mount(image)
        try:
            yield path
        finally:
            if not was_mounted:
                self.umount(image)

    def umount(self, image: StoredImage) -> None:
        """Undoes ``mount``; harmless when it is not mounted.

        Raises:
            StorageError: not root, or still in use.
        """
        mounts.umount(self._parts.mount_point(image.id))


class Chain:
    """The layers of one image while they are built: locked, private until merged.

    Attributes:
        missing: what is not in the store yet, base first.
    """

    def __init__(
        self,
        image: Image,
        ids: Sequence[str],
        missing: Sequence[str],
        layers: Layers,
        locks: ChainLocks,
        private: Path,
    ) -> None:
        self._image = image
        self._ids = tuple(ids)
        self._layers = layers
        self._locks = locks
        self._private = private
        self._lock = threading.Lock()
        self._waiting = [position for position, layer_id in enumerate(ids) if layer_id in missing]
        self.missing = tuple(image.layers[position] for position in self._waiting)

    @property
    def is_complete(self) -> bool:
        return not self._waiting

    def directory(self, layer: Layer) -> Path:
        """The layer's private directory, on the store's own file system; created empty the first time."""
        position = self._image.layers.index(layer)
        path = self._private / str(position)
        try:
            path.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error("create a private directory for a layer", error) from error
        return path

    def merge(self, extracted: Extracted) -> None:
        """Puts the next missing layer into the store.

        Raises:
            StorageError: it is not the next one, base first, or the disk failed.
            UnacceptableError: it does not fit upon the layers below.
        """
        with self._lock:
            if not self._waiting or extracted.directory != self._private / str(self._waiting[0]):
                raise StorageError(f"cannot merge {extracted.directory}: layers are merged base first, each once")
            position = self._waiting[0]
            layer_id, below = self._ids[position], self._ids[:position]
            complete(extracted, [self._layers.diff(one) for one in below])
            try:
                self._layers.commit(self._image.layers[position], layer_id, below, extracted)
            except StorageError:
                with contextlib.suppress(StorageError):  # the first error is the one to tell
                    self._layers.discard(layer_id, self._private)  # a full disk gets its space back
                raise
            self._waiting.pop(0)
            self._locks.end_build(layer_id)


def _name_meant(record: Record, name_or_id: str) -> str | None:
    """The name of the image that was asked for; None when it was named by id."""
    names = record.get("names") or ()
    return next((name for name in (name_or_id, stored_name(name_or_id)) if name in names), None)
