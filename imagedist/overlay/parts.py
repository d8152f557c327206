"""What one store is made of: the parts that building, removing and collecting share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.locking import PrivateDirectory, locked
from imagedist.overlay.durability import Unsynced
from imagedist.overlay.format import Format
from imagedist.overlay.images import Images, StoredImage
from imagedist.overlay.layers import Layers
from imagedist.overlay.loans import Loans
from imagedist.overlay.locks import ChainLocks
from imagedist.overlay.pins import Pins
from imagedist.overlay.records import Record
from imagedist.overlay.usage import Usage


@dataclass(frozen=True)
class Parts:
    """The parts of the store at ``root``; what is ours alone is below ``own``.

    Attributes:
        used_by: other containers/storage stores that have this one as an additional image store.
    """

    root: Path
    own: Path
    is_durable: bool
    used_by: tuple[Path, ...]
    format: Format
    layers: Layers
    images: Images
    unsynced: Unsynced
    loans: Loans
    pins: Pins

    @classmethod
    def at(cls, root: Path, is_durable: bool, used_by: Sequence[Path]) -> Parts:
        own = root / "imagedist"
        return cls(
            root,
            own,
            is_durable,
            tuple(used_by),
            Format(own),
            Layers(root, own, is_durable),
            Images(root, is_durable),
            Unsynced(own / "unsynced", own / "building"),
            Loans(own / "lent"),
            Pins(own / "pins"),
        )

    def prepare(self) -> None:
        """Creates what an empty store has.

        Raises:
            StorageError: it cannot be written, or a newer version has written it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for directory in (self.own, *(self.own / name for name in ("unsynced", "mounts", "used", "lent"))):
                directory.mkdir(exist_ok=True, mode=0o700)
            self.layers.prepare()
            (self.root / "overlay-images").mkdir(exist_ok=True, mode=0o700)
            for lock in ("storage.lock", "overlay-layers/layers.lock", "overlay-images/images.lock"):
                (self.root / lock).touch(mode=0o644)  # a read-only store is read by tools that cannot create them
        except OSError as error:
            raise storage_error("prepare the image store", error) from error
        self.format.owners()

    def locks(self) -> ChainLocks:
        return ChainLocks(self.own)

    @contextlib.contextmanager
    def trash(self) -> Iterator[Path]:
        """A private directory for what is being removed; what a killed process leaves there, the next one removes."""
        private = PrivateDirectory(self.own / "discarded")
        try:
            yield private.path
        finally:
            private.close()

    def stored(self) -> list[StoredImage]:
        """Every image."""
        present = self.layers.present()
        return [stored_image(record, present) for record in self.images.records.read()]

    def usage(self) -> Usage:
        return Usage(self.root, self.used_by)

    def marks(self, layer_ids: Collection[str]) -> set[str]:
        """What names these layers in mounts and ``lower`` files."""
        return {*layer_ids, *(self.layers.link(one) for one in layer_ids if self.layers.diff(one).exists())}

    def mount_point(self, image_id: str) -> Path:
        return self.own / "mounts" / image_id

    def note_use(self, image_id: str) -> None:
        """The image was pulled or mounted now: what was used last is evicted last."""
        try:
            (self.own / "used" / image_id).touch(mode=0o600)
            os.utime(self.own / "used" / image_id)
        except OSError as error:
            raise storage_error(f"note the use of image {image_id}", error) from error

    def forget_use(self, image_id: str) -> None:
        (self.own / "used" / image_id).unlink(missing_ok=True)

    def last_use(self, image_id: str) -> float:
        """Seconds since the epoch; 0 if nobody noted any."""
        with contextlib.suppress(OSError):
            return (self.own / "used" / image_id).stat().st_mtime
        return 0.0

    @contextlib.contextmanager
    def evicting(self) -> Iterator[None]:
        """One process at a time decides what makes room."""
        with locked(self.own / "locks" / "quota"):
            yield


def stored_image(record: Record, layers: Mapping[str, Record]) -> StoredImage:
    """An image record with what the layer records (by id) say."""
    chain = _chain(record, layers)
    return StoredImage(
        str(record["id"]),
        tuple(record.get("names") or ()),
        str(record.get("digest") or ""),
        chain,
        sum(int(layers[layer_id].get("diff-size") or 0) for layer_id in chain),
        str(record.get("created") or ""),
    )


def _chain(record: Record, layers: Mapping[str, Record]) -> tuple[str, ...]:
    """An image's layer ids, base first, by the parents in the records."""
    chain: list[str] = []
    layer_id = record.get("layer") or ""
    while layer_id in layers and layer_id not in chain:
        chain.append(layer_id)
        layer_id = layers[layer_id].get("parent") or ""
    return tuple(reversed(chain))
