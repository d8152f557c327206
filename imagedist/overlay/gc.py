"""Collects what nobody needs: what killed processes left, and layers that no image refers to.

Safe beside pulls, removals and podman. What has a layer's or an image's lock is being built; private directories have
locks of their own; and what is not in the records goes while nobody can write them. Each thing goes in one rename to a
private directory, so a collection that is killed leaves only that, for the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.locking import abandoned, locked, refuse_strangers, remove_abandoned
from imagedist.overlay.footprint import footprint_bytes
from imagedist.overlay.locks import ChainLocks
from imagedist.overlay.parts import Parts
from imagedist.overlay.records import ASIDE, Record
from imagedist.overlay.removal import discard_unneeded, distrust_lost
from imagedist.overlay.usage import Usage, container_layers

_ID = re.compile(r"[0-9a-f]{64}\Z")
_SPLIT = ".tar-split.gz"


@dataclass(frozen=True, slots=True)
class Collected:
    """Something that was removed, or would be.

    Attributes:
        kind: ``private directory``, ``layer``, ``layer directory`` (without a record), ``short link``, ``tar-split``,
            ``image directory``, ``file written aside``, ``mount point``, ``note``, or ``image`` (evicted for a quota).
        name: its path or id.
        size_bytes: what the file system had allocated for it.
    """

    kind: str
    name: str
    size_bytes: int


def collect(parts: Parts, scratch: Sequence[Path] = (), *, dry_run: bool = False) -> list[Collected]:
    """One pass over the store.

    Args:
        scratch: further directories of private directories, such as a ramdisk's.
        dry_run: only say what would go.

    Raises:
        StorageError: something cannot be read or removed; what was done by then is done.
    """
    collection = _Collection(parts, dry_run)
    if not dry_run:
        distrust_lost(parts)
    try:
        for parent in (*(parts.own / name for name in ("building", "spill", "discarded")), *scratch):
            collection.private_directories(parent)
        collection.unneeded_layers()
        collection.unrecorded_layers()
        collection.unrecorded_images()
        collection.mount_points()
        collection.notes()
    except OSError as error:
        raise storage_error("collect what nobody needs", error) from error
    return collection.collected


class _Collection:
    def __init__(self, parts: Parts, dry_run: bool) -> None:
        self._parts = parts
        self._dry_run = dry_run
        self.collected: list[Collected] = []

    def private_directories(self, parent: Path) -> None:
        if not parent.is_dir():
            return
        refuse_strangers(parent)
        with locked(parent / ".lock"):
            for path in abandoned(parent):
                self._found("private directory", str(path), footprint_bytes(path))
            if not self._dry_run:
                remove_abandoned(parent)

    def unneeded_layers(self) -> None:
        """Recorded layers that no image, container or other store needs; only those that we have put there."""
        layers = self._parts.layers
        with self._parts.locks() as locks, self._trash() as trash:
            free = self._free(locks)
            recorded = {str(record.get("id")): record for record in layers.records.read()}
            needed = self._needed(recorded)
            held = [one for one in recorded if one not in needed and layers.is_ours(one) and free(one)]
            # Again, now that they are locked: a build that ended in between has made an image of some, perhaps.
            needed = self._needed(recorded)
            candidates = [one for one in held if one not in needed]
            usage = self._parts.usage()
            unused = [one for one in candidates if usage.by("", self._parts.marks([one])) is None]
            sizes = {one: layers.size_bytes(one) for one in unused}
            for layer_id in unused if self._dry_run else discard_unneeded(self._parts, unused, trash):
                self._found("layer", layer_id, sizes[layer_id])

    def _needed(self, recorded: Mapping[str, Record]) -> set[str]:
        """Layers of images, of this store's own containers, and those lent to others."""
        known = {**recorded, **self._parts.layers.volatile()}
        needed = {layer_id for image in self._parts.stored() for layer_id in image.layer_ids}
        return needed | container_layers(self._parts.root, known) | self._parts.loans.lent()

    def unrecorded_layers(self) -> None:
        """Directories, short links and tar-splits of layers that were never recorded, or are not any more.

        The records stay locked meanwhile: containers/storage makes a layer's directory under that lock, too.
        """
        layers = self._parts.layers
        with self._parts.locks() as locks, self._trash() as trash, layers.records.reading() as records:
            free, recorded = self._free(locks), {record.get("id") for record in records} | layers.volatile().keys()
            usage, lent = self._parts.usage(), self._parts.loans.lent()
            for path in sorted(layers.overlay.iterdir()):
                is_known = path.name in recorded or path.name in lent
                is_orphan = _ID.match(path.name) and not is_known and free(path.name)
                if is_orphan and usage.mounted_by([path.name]) is None:
                    self._remove("layer directory", path, trash)
            for path in sorted((layers.overlay / "l").iterdir()):
                if path.is_symlink() and not path.exists():
                    self._remove("short link", path)
            for path in [*sorted(layers.splits.glob(f"*{_SPLIT}")), *sorted(layers.notes.iterdir())]:
                layer_id = path.name.removesuffix(_SPLIT)
                if _ID.match(layer_id) and layer_id not in recorded and free(layer_id):
                    self._remove("tar-split" if path.name != layer_id else "note", path)
            self._written_aside(layers.splits.glob(ASIDE))

    def unrecorded_images(self) -> None:
        images = self._parts.images
        with self._parts.locks() as locks, self._trash() as trash, images.records.reading() as records:
            free, recorded = self._free(locks), {record.get("id") for record in records}
            for path in sorted(images.directory("").iterdir()):
                if path.is_dir() and _ID.match(path.name) and path.name not in recorded and free(path.name):
                    self._remove("image directory", path, trash)
            self._written_aside([*images.directory("").glob(ASIDE), *images.directory("").glob(f"*/{ASIDE}")])
            for path in sorted((self._parts.own / "used").iterdir()):
                if path.name not in recorded and free(path.name):
                    self._remove("note", path)

    def mount_points(self) -> None:
        """rmdir would take the mount away from other mount namespaces, so all of them are asked."""
        usage = Usage(self._parts.root, ())
        with self._parts.locks() as locks:
            free = self._free(locks)
            for path in sorted((self._parts.own / "mounts").iterdir()):
                if free(path.name) and usage.mounted_by([path.name]) is None:
                    self._found("mount point", str(path), 0)
                    if not self._dry_run:
                        path.rmdir()

    def notes(self) -> None:
        """Builds that died before they synced: what they merged is gone by now, or needed and made durable."""
        dead = self._parts.unsynced.of_dead_builds()
        for path in dead:
            self._found("note", str(path), footprint_bytes(path))
        if dead and not self._dry_run:
            self._parts.unsynced.settle(None, (), is_forced=True)

    def _written_aside(self, paths: Iterable[Path]) -> None:
        """By writers that were killed before the rename: those alive hold the lock that we hold."""
        for path in sorted(paths):
            self._remove("file written aside", path)

    def _free(self, locks: ChainLocks) -> Callable[[str], bool]:
        """Looking without touching keeps no lock."""
        return locks.may_remove if self._dry_run else locks.try_remove

    @contextlib.contextmanager
    def _trash(self) -> Iterator[Path]:
        if self._dry_run:
            yield Path(os.devnull)
        else:
            with self._parts.trash() as path:
                yield path

    def _remove(self, kind: str, path: Path, trash: Path | None = None) -> None:
        self._found(kind, str(path), footprint_bytes(path))
        if self._dry_run:
            return
        if trash is None:
            path.unlink(missing_ok=True)
        else:
            path.rename(trash / path.name)  # and is removed when the records are free again

    def _found(self, kind: str, name: str, size_bytes: int) -> None:
        self.collected.append(Collected(kind, name, size_bytes))
