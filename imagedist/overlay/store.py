"""The node's image store: builds chains of layers, lists, mounts and removes images (design.md §4.4, §4.5)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.locking import LOCK_TIMEOUT_SECONDS, LockFile, PrivateDirectory
from imagedist.oci.manifest import Image, Layer, layer_ids
from imagedist.oci.reference import Reference
from imagedist.overlay import mounts, usage, view
from imagedist.overlay.durability import Unsynced
from imagedist.overlay.images import Images, StoredImage
from imagedist.overlay.layers import Layers
from imagedist.overlay.merge import Extracted, complete
from imagedist.overlay.records import Record

__all__ = ["Chain", "OverlayStore", "StoredImage"]

Durability = Literal["none", "image"]


class OverlayStore:
    """A containers/storage ``overlay`` store at ``root``; our own things are in ``root/imagedist``.

    Several processes and threads may use one store. A kill at any point leaves either the old store or the new one.

    Args:
        durability: ``image``: an image record is written only after its layers are on the disk; ``none``: no sync,
            what the kernel has not written is lost with the power (not with the process).
        used_by: other containers/storage stores that have this one as an additional image store.
    """

    def __init__(self, root: Path, *, durability: Durability = "image", used_by: Sequence[Path] = ()) -> None:
        self.root = root
        self._is_durable = durability == "image"
        self._used_by = tuple(used_by)
        self._own = root / "imagedist"
        self._layers = Layers(root)
        self._unsynced = Unsynced(self._own / "unsynced", self._own / "building")
        self._images = Images(root, self._is_durable)
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for directory in (self._own, self._own / "unsynced", self._own / "mounts"):
                directory.mkdir(exist_ok=True, mode=0o700)
            self._layers.prepare()
            (root / "overlay-images").mkdir(exist_ok=True, mode=0o700)
            for lock in ("storage.lock", "overlay-layers/layers.lock", "overlay-images/images.lock"):
                (root / lock).touch(mode=0o644)  # a read-only store is read by tools that cannot create them
        except OSError as error:
            raise storage_error("prepare the image store", error) from error

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
            StorageError: locked for longer than ``timeout_seconds``, ``stop`` was set, the disk failed, or the block
                ended with layers missing.
        """
        locks = _ChainLocks(self._own / "locks" / "chains")
        private: PrivateDirectory | None = None
        note: Path | None = None
        try:
            self._distrust_lost()
            ids = layer_ids([layer.diff_id for layer in image.layers])
            for layer_id in ids:
                locks.use(layer_id, timeout_seconds, stop)
            missing = self._lock_missing(ids, locks, timeout_seconds, stop)
            private = PrivateDirectory(self._own / "building")
            for layer_id in missing:
                self._layers.discard(layer_id)
            if self._is_durable and missing:
                note = self._unsynced.note(private.path.name, missing)
            chain = Chain(image, ids, missing, self._layers, locks, private.path)
            yield chain
            if not chain.is_complete:
                raise StorageError(f"cannot store {image.reference}: not every missing layer was merged")
            if self._is_durable:
                self._unsynced.settle(note, ids)
            self._images.put(image, ids[-1] if ids else "", names)
        finally:
            if private is not None:
                private.close()
            locks.close()

    def _lock_missing(
        self, ids: Sequence[str], locks: _ChainLocks, timeout_seconds: float, stop: threading.Event | None
    ) -> list[str]:
        """Base first, so that two chains that share layers never wait for each other in a circle."""
        missing: list[str] = []
        present = self._layers.present()
        for layer_id in ids:
            if layer_id in present:
                continue
            locks.build(layer_id, timeout_seconds, stop)
            if layer_id in self._layers.present():
                locks.end_build(layer_id)  # whoever held it has built it meanwhile
            else:
                missing.append(layer_id)
        return missing

    def _distrust_lost(self) -> None:
        """Removes layers that were merged before the machine went down and never synced: their files may be empty."""
        for note, layer_ids_noted in self._unsynced.before_this_boot().items():
            locks = _ChainLocks(self._own / "locks" / "chains")
            try:
                unused = [layer_id for layer_id in reversed(layer_ids_noted) if locks.try_remove(layer_id)]
                stored = {layer_id for image in self.images() for layer_id in image.layer_ids}
                for layer_id in unused:
                    if layer_id not in stored:  # else synced before its image was recorded, maybe just now
                        self._layers.discard(layer_id)
                note.unlink(missing_ok=True)
            finally:
                locks.close()

    def images(self) -> list[StoredImage]:
        """Every image of the store."""
        layers = self._layers.present()
        return [_stored(record, layers) for record in self._images.records.read()]

    def find(self, name_or_id: str) -> StoredImage:
        """By name, reference or id.

        Raises:
            NotFoundError: there is none; names what there is. InputError: an ambiguous id.
        """
        return _stored(self._images.find(name_or_id), self._layers.present())

    def manifest_bytes(self, image: StoredImage) -> bytes:
        return self._images.document({"id": image.id}, "manifest")

    def config_bytes(self, image: StoredImage) -> bytes:
        return self._images.document({"id": image.id}, f"sha256:{image.id}")

    def diffs(self, image: StoredImage) -> tuple[Path, ...]:
        """Its layer directories, base first: what ``view.tree`` and a mount are made of."""
        return tuple(self._layers.diff(layer_id) for layer_id in image.layer_ids)

    def tree(self, image: StoredImage, *, with_owner: bool = False) -> dict[str, view.TreeEntry]:
        """Its root file system, without mounting it."""
        return view.tree(self.diffs(image), with_owner=with_owner)

    def remove(self, name_or_id: str) -> StoredImage | None:
        """Takes the name off; with the last name, or by id, removes the image and the layers nobody else needs.

        Returns:
            The image, if it is gone; None: it is still there under other names.

        Raises:
            NotFoundError: there is none. InputError: it is in use; names by whom.
        """
        record = self._images.find(name_or_id)
        image = _stored(record, self._layers.present())
        name = _name_meant(record, name_or_id)
        if name is not None and self._images.untag(image.id, name):
            return None
        locks = _ChainLocks(self._own / "locks" / "chains")
        try:
            unlocked = [layer_id for layer_id in image.layer_ids if locks.try_remove(layer_id)]
            kept = {layer_id for other in self.images() if other.id != image.id for layer_id in other.layer_ids}
            ours = [layer_id for layer_id in unlocked if layer_id not in kept]
            self._refuse_if_used(image, ours)
            self._images.remove(image.id)
            present = self._layers.present()
            for layer_id in reversed(ours):
                # Layers of a build that failed half-way may still stand upon this one.
                if not any(record.get("parent") == layer_id for record in present.values()):
                    self._layers.discard(layer_id)
                    present.pop(layer_id, None)
        finally:
            locks.close()
        return image

    def _refuse_if_used(self, image: StoredImage, layer_ids_to_go: Sequence[str]) -> None:
        if os.path.ismount(self._mount_point(image)):
            raise InputError(f"cannot remove {image.id[:12]}: it is mounted; run imagedist umount first")
        marks = {*layer_ids_to_go, *(self._layers.link(layer_id) for layer_id in layer_ids_to_go)}
        user = usage.mounted_by(marks) or usage.referred_by(image.id, marks, self._used_by)
        if user is not None:
            raise InputError(f"cannot remove {image.id[:12]}: it is in use, {user}; stop that first")

    def mount(self, image: StoredImage) -> Path:
        """Mounts the root file system read-only (idempotent) and returns where.

        Raises:
            StorageError: not root, or the kernel refuses.
        """
        if not image.layer_ids:
            raise StorageError(f"cannot mount {image.id[:12]}: it has no layers")
        lowers = [f"l/{self._layers.link(layer_id)}" for layer_id in reversed(image.layer_ids)]
        if len(lowers) == 1:
            lowers.append(f"{image.layer_ids[0]}/empty")
        target = self._mount_point(image)
        mounts.mount(self._layers.overlay, lowers, target)
        return target

    def umount(self, image: StoredImage) -> None:
        """Undoes ``mount``; harmless when it is not mounted.

        Raises:
            StorageError: not root, or still in use.
        """
        mounts.umount(self._mount_point(image))

    def _mount_point(self, image: StoredImage) -> Path:
        return self._own / "mounts" / image.id


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
        locks: _ChainLocks,
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
            self._layers.commit(self._image.layers[position], layer_id, below, extracted)
            self._waiting.pop(0)
            self._locks.end_build(layer_id)


class _ChainLocks:
    """Two bytes of one lock file per layer, at offsets made of its id: nothing to clean up, no file to race for.

    *use* (shared) keeps a layer from being removed between "it is there" and the image record; *build* (exclusive)
    makes one builder of many.
    """

    def __init__(self, path: Path) -> None:
        self._file = LockFile(path)

    def use(self, layer_id: str, timeout_seconds: float, stop: threading.Event | None) -> None:
        self._file.acquire(_offset(layer_id), 1, shared=True, timeout_seconds=timeout_seconds, stop=stop)

    def build(self, layer_id: str, timeout_seconds: float, stop: threading.Event | None) -> None:
        self._file.acquire(_offset(layer_id) + 1, 1, timeout_seconds=timeout_seconds, stop=stop)

    def end_build(self, layer_id: str) -> None:
        self._file.release(_offset(layer_id) + 1, 1)

    def try_remove(self, layer_id: str) -> bool:
        """Whether nobody uses the layer for a build; until ``close`` nobody will."""
        return self._file.try_acquire(_offset(layer_id), 1)

    def close(self) -> None:
        self._file.close()


def _offset(layer_id: str) -> int:
    return int(layer_id[:15], 16) * 2


def _chain(record: Record, layers: dict[str, Record]) -> tuple[str, ...]:
    """An image's layer ids, base first, by the parents in the records."""
    chain: list[str] = []
    layer_id = record.get("layer") or ""
    while layer_id in layers and layer_id not in chain:
        chain.append(layer_id)
        layer_id = layers[layer_id].get("parent") or ""
    return tuple(reversed(chain))


def _stored(record: Record, layers: dict[str, Record]) -> StoredImage:
    chain = _chain(record, layers)
    return StoredImage(
        str(record["id"]),
        tuple(record.get("names") or ()),
        str(record.get("digest") or ""),
        chain,
        sum(int(layers[layer_id].get("diff-size") or 0) for layer_id in chain),
        str(record.get("created") or ""),
    )


def _name_meant(record: Record, name_or_id: str) -> str | None:
    """The name of the image that was asked for; None when it was named by id."""
    names = record.get("names") or ()
    if name_or_id in names:
        return name_or_id
    with contextlib.suppress(InputError):
        full = str(Reference.parse(name_or_id))
        return full if full in names else None
    return None
