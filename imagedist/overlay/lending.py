"""Lends a store's layers by chain ID, and gives the space back when the borrower needs them no more."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagedist.errors import InputError, StorageError, storage_error
from imagedist.oci.digest import Digest
from imagedist.oci.image import chain_ids, layer_ids
from imagedist.overlay import gc
from imagedist.overlay.gc import Collected
from imagedist.overlay.parts import Parts
from imagedist.overlay.records import Record
from imagedist.overlay.removal import remove_image


@dataclass(frozen=True, slots=True)
class ChainedLayer:
    """A layer of the store, as its records say.

    Attributes:
        id: in the store. parent_id: of the layer below; empty for a base.
        chain_id: computed from the diff IDs of the store's own records.
    """

    id: str
    parent_id: str
    chain_id: Digest


class Lending:
    """The lender's side of one store, for one borrower. Threads may share it.

    Args:
        root: the store's. is_durable, used_by: as ``OverlayStore`` has them.
    """

    def __init__(self, root: Path, *, is_durable: bool, used_by: Sequence[Path] = ()) -> None:
        self._parts = Parts.at(root.absolute(), is_durable, used_by)
        self._parts.prepare()
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._chains: Mapping[Digest, ChainedLayer] = {}

    @property
    def own(self) -> Path:
        """The store's directory for what is no containers/storage."""
        return self._parts.own

    @property
    def links(self) -> Path:
        """Where the symlinks to lent layers are."""
        return self._parts.loans.directory

    def layer(self, chain_id: Digest) -> ChainedLayer | None:
        """The layer that completes a chain, if the store has it and we have unpacked it.

        Raises:
            StorageError: the records cannot be read.
        """
        found = self._index().get(chain_id)
        return found if found is not None and self._is_there(found.id) else None

    def settle(self, layer_id: str) -> None:
        """Makes a layer durable that was merged but not synced yet: its build may still be under way.

        Raises:
            StorageError: the disk failed.
        """
        if self._parts.is_durable:
            self._parts.unsynced.settle(None, [layer_id])

    def lend(self, layer: ChainedLayer) -> str | None:
        """From now on nobody removes the layer. Call ``settle`` before.

        Returns:
            The loan's name below ``links``; None: the layer is gone, or just being removed.

        Raises:
            StorageError: the disk failed.
        """
        with self._parts.locks() as locks:
            try:
                locks.use(layer.id, 0.0, None)
            except StorageError:  # a removal holds it while it deletes files: not waited for
                return None
            if self.layer(layer.chain_id) != layer:
                return None
            name = self._parts.layers.link(layer.id)
            self._parts.loans.lend(layer.id, name, self._parts.is_durable)
        return name

    def link(self, layer_id: str) -> Path:
        """A lent layer by its short name.

        Raises:
            StorageError: the layer is lost.
        """
        return self.links / self._parts.layers.link(layer_id)

    def names(self) -> dict[str, str]:
        """Every loan: layer id → its name below ``links``."""
        return self._parts.loans.names()

    def lend_again(self, layer_id: str) -> bool:
        """Renews a loan whose link was lost; False: so is the layer."""
        try:
            name = self._parts.layers.link(layer_id)
        except StorageError:
            return False
        self._parts.loans.lend(layer_id, name, self._parts.is_durable)
        return self.diff(layer_id).is_dir()

    def take_back(self, layer_id: str) -> None:
        """Ends a loan; harmless when there is none."""
        name = self.names().get(layer_id)
        if name is not None:
            self._parts.loans.take_back(name)

    def diff(self, layer_id: str) -> Path:
        """A layer's directory."""
        return self._parts.layers.diff(layer_id)

    def has_manifest(self, digest: Digest) -> bool:
        """Whether the store has an image with this manifest."""
        return any(record.get("digest") == str(digest) for record in self._parts.images.records.read())

    def last_use(self, image_id: str) -> float:
        """When an image was pulled or mounted last, in seconds since the epoch; 0 if nobody noted any."""
        return self._parts.last_use(image_id)

    def forgo(self, image_id: str, last_use: float) -> bool:
        """Removes an image that was pulled for the borrower alone and that the borrower needs no more.

        Args:
            last_use: when it was pulled for the borrower. Who pulled or mounted it later wants it kept.

        Returns:
            Whether the matter is over: the image is gone, or somebody else's.
        """
        image = next((one for one in self._parts.stored() if one.id == image_id), None)
        if image is None or self.last_use(image_id) != last_use:
            return True
        if not self.names().keys().isdisjoint(image.layer_ids[-1:]):
            return False
        try:
            remove_image(self._parts, image)
        except InputError:  # a container of another runtime has it
            return False
        return True

    def collect(self) -> list[Collected]:
        """Removes what nobody needs, as ``imagedist gc`` does."""
        return gc.collect(self._parts)

    def _is_there(self, layer_id: str) -> bool:
        return self._parts.layers.is_ours(layer_id) and self._parts.layers.diff(layer_id).is_dir()

    def _index(self) -> Mapping[Digest, ChainedLayer]:
        """Chain ID → layer. The records are read again only after they changed: always by renaming a new file."""
        with self._lock:
            records = self._parts.layers.records
            try:
                status = os.stat(records.path)
            except FileNotFoundError:
                return {}
            except OSError as error:
                raise storage_error("read the layers of the store", error) from error
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._chains = {layer.chain_id: layer for layer in chained(self._parts.layers.present())}
                self._stamp = stamp
            return self._chains


def chained(records: Mapping[str, Record]) -> list[ChainedLayer]:
    """The layers, by id, whose ids follow from their diff IDs and parents as containers/image computes them.

    Who else has written into the store may have named layers otherwise: these have no chain that we vouch for, nor
    have those above them.
    """
    above: defaultdict[str, list[str]] = defaultdict(list)
    for layer_id, record in records.items():
        above[str(record.get("parent") or "")].append(layer_id)
    found: list[ChainedLayer] = []
    todo: list[tuple[str, ChainedLayer | None]] = [(layer_id, None) for layer_id in above[""]]
    while todo:
        layer_id, parent = todo.pop()
        layer = _upon(parent, layer_id, records[layer_id])
        if layer is not None:
            found.append(layer)
            todo += [(one, layer) for one in above[layer_id]]
    return found


def _upon(parent: ChainedLayer | None, layer_id: str, record: Record) -> ChainedLayer | None:
    try:
        diff_id = Digest.parse(str(record.get("diff-digest")))
    except InputError:
        return None
    if parent is None:
        expected, chain_id, parent_id = layer_ids([diff_id])[0], diff_id, ""
    else:
        expected = layer_ids([Digest("sha256", parent.id), diff_id])[1]
        chain_id, parent_id = chain_ids([parent.chain_id, diff_id])[1], parent.id
    return ChainedLayer(layer_id, parent_id, chain_id) if expected == layer_id else None
