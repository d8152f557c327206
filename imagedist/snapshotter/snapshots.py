"""What the snapshots API means, as containerd's own overlay snapshotter means it. Nothing of gRPC here.

Model: github.com/containerd/containerd, plugins/snapshots/overlay and core/snapshots/storage/bolt.go. A committed
snapshot may be a layer of the node's store: then it has no directory, and the layer is lent for as long as it is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagedist.errors import ExistsError, InputError, NotFoundError, PreconditionError, StorageError, storage_error
from imagedist.overlay.lending import ChainedLayer, Lending
from imagedist.snapshotter.directories import Directories, disk_usage, owner_of
from imagedist.snapshotter.filters import parse_filters
from imagedist.snapshotter.idmap import IdMapping, id_mapping
from imagedist.snapshotter.mounts import Lower, lower_names, mounts, overlay_options
from imagedist.snapshotter.records import Records
from imagedist.snapshotter.snapshot import Kind, Mount, Snapshot, Usage

_LOG = logging.getLogger(__name__)

_NAME_LIMIT_BYTES = 32_768
"""As containerd's database has it (bbolt, MaxKeySize)."""
_LABEL_LIMIT_BYTES = 4096
"""Key and value of one label together (containerd, pkg/labels)."""
_LABELS_LIMIT = 1024

DIRECTORY, DATABASE = "snapshots", "snapshots.db"
"""In the store's own directory."""


class Snapshots:
    """All snapshots of one store. Threads may share it.

    Every change is one transaction of the database. What it needs of the file system is there before, and what it no
    longer needs goes after, so a kill at any point leaves at most something that ``clean`` removes.

    Attributes:
        returned: set when a layer may be needed no longer; whoever collects such layers clears it.

    Raises:
        StorageError: the disk failed, or a newer version has written the database. So do all methods.
    """

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._directories = Directories(lending.own / DIRECTORY, lending.links)
        self._directories.prepare()
        may_be_new = not self._directories.has_any()
        self.records = Records(lending.own / DIRECTORY / DATABASE, may_be_new=may_be_new)
        self.returned = threading.Event()
        self.returned.set()  # by a process before us that was killed, perhaps
        self._lock = threading.RLock()
        self._options = overlay_options()

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """A new snapshot upon a committed one (or nothing), to be written to.

        Raises:
            ExistsError: the key is taken. NotFoundError: no such parent. InputError: the parent is not committed.
        """
        return self._create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        """The same, to be read only. Raises as ``prepare``."""
        return self._create(Kind.VIEW, key, parent, labels)

    def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        _check_name(key)
        kept = _checked(labels)
        mapping = id_mapping(kept)
        with self._lock:
            number = 0
            try:
                with self.records.changing():
                    below = self._committed(parent, InputError) if parent else None
                    if self.records.get(key) is not None:
                        raise ExistsError(f"snapshot {key!r} exists already")
                    number = self.records.add(key, below, kind, time.time_ns(), kept)
                    lowers = self._lowers(parent)
                    owner = owner_of(lowers[0].path) if lowers else None
                    if mapping is not None:
                        owner = (mapping.root_uid, mapping.root_gid)
                    self._directories.make(number, is_writable=kind is Kind.ACTIVE, owner=owner)
            except BaseException:
                if number:
                    self._directories.empty(self._directories.discard(number))
                raise
        return self._mounts(kind, number, below, lowers, mapping)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """How to mount an active snapshot or a view.

        Raises:
            NotFoundError: there is none. PreconditionError: it is committed.
        """
        with self._lock:
            snapshot = self.stat(key)
            if snapshot.kind is Kind.COMMITTED:
                raise PreconditionError(f"snapshot {key!r} is committed: only active ones and views can be mounted")
            below = self.records.get(snapshot.parent) if snapshot.parent else None
            lowers = self._lowers(snapshot.parent)
        return self._mounts(snapshot.kind, snapshot.id, below, lowers, id_mapping(snapshot.labels))

    def _mounts(
        self, kind: Kind, number: int, below: Snapshot | None, lowers: list[Lower], mapping: IdMapping | None
    ) -> tuple[Mount, ...]:
        if mapping is None or _is_remapped(below, lowers, mapping):
            return mounts(kind, self._directories.at(number), lower_names(lowers), self._options)
        # containerd may mount what all lower directories have in common, and look for the rest below: no symlinks.
        paths = [lower.path for lower in lowers]
        return mounts(kind, self._directories.at(number), paths, self._options, mapping.options)

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None:
        """An active snapshot becomes a committed one: from now on it never changes.

        Args:
            labels: the committed one's; it inherits none.
            parent: for one that was prepared upon nothing.

        Raises:
            NotFoundError: no such key, or parent. ExistsError: the name is taken. PreconditionError: not active, or
                the parent is not committed. InputError: it has another parent already.
        """
        _check_name(name)
        kept = _checked(labels)
        active = self.stat(key)
        usage = self._directories.usage(active.id) if active.kind is Kind.ACTIVE else Usage()
        with self._lock, self.records.changing():
            active = self.stat(key)
            if self.records.get(name) is not None:
                raise ExistsError(f"committed snapshot {name!r} exists already")
            if active.kind is not Kind.ACTIVE:
                raise PreconditionError(f"snapshot {key!r} is not active: there is nothing to commit")
            if parent and active.parent and parent != active.parent:
                raise InputError(f"snapshot {key!r} has the parent {active.parent!r}: it cannot get another")
            above = parent or active.parent
            below = self._committed(above, PreconditionError) if above else None
            self._directories.publish(active.id)
            self.records.commit(active, name, below, time.time_ns(), kept, usage)

    def adopt(self, name: str, parent: str, labels: Mapping[str, str], layer: ChainedLayer) -> bool:
        """A layer of the store becomes a committed snapshot.

        Returns:
            Whether it did; False: the layer is gone, or just being removed, or the name is taken.

        Raises:
            NotFoundError, InputError: as ``prepare``.
        """
        _check_name(name)
        kept = _checked(labels)
        self._lending.settle(layer.id)  # however long it takes, without the lock
        with self._lock, self.records.changing():
            below = self._committed(parent, InputError) if parent else None
            if self.records.get(name) is not None or self._lending.lend(layer) is None:
                return False
            self.records.add(name, below, Kind.COMMITTED, time.time_ns(), kept, layer.id)
        return True

    def remove(self, key: str) -> None:
        """Removes a snapshot and what it holds.

        Raises:
            NotFoundError: there is none. PreconditionError: another one stands upon it.
        """
        with self._lock:
            with self.records.changing():
                snapshot = self.stat(key)
                if self.records.has_children(snapshot):
                    raise PreconditionError(f"cannot remove snapshot {key!r}: it is the parent of another")
                self.records.remove(snapshot)
            gone = self._let_go(snapshot)
        if gone is not None:
            self._directories.empty(gone)

    def _let_go(self, snapshot: Snapshot) -> Path | None:
        """The record is gone: whatever fails from here on is for the next cleaning, not for the caller."""
        try:
            if not snapshot.layer_id:
                return self._directories.discard(snapshot.id)
            if not self.records.uses_layer(snapshot.layer_id):
                self._lending.take_back(snapshot.layer_id)
                self.returned.set()
        except StorageError as error:
            _LOG.warning("snapshot %r is removed, but not all it held: %s", snapshot.name, error)
        return None

    def stat(self, key: str) -> Snapshot:
        """Raises NotFoundError: there is none."""
        snapshot = self.records.get(key)
        if snapshot is None:
            raise NotFoundError(f"snapshot {key[:200]!r} does not exist")
        return snapshot

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Changes labels.

        Args:
            labels: those to have. paths: ``labels``, or ``labels.NAME`` for single ones; empty: all of them.

        Raises:
            NotFoundError: there is none. InputError: another field, which never changes, or a label too long.
        """
        with self._lock, self.records.changing():
            snapshot = self.stat(name)
            wanted = dict(snapshot.labels) if paths else dict(labels)
            for path in paths:
                if path.startswith("labels."):
                    wanted[path[len("labels.") :]] = labels.get(path[len("labels.") :], "")
                elif path == "labels":
                    wanted = dict(labels)
                else:
                    raise InputError(f"cannot update {path!r} of snapshot {name!r}: only labels change")
            self.records.relabel(snapshot, time.time_ns(), _checked(wanted))
            return self.stat(name)

    def matching(self, filters: Sequence[str]) -> list[Snapshot]:
        """All that match any of the filters, by name. Raises InputError: not a filter."""
        matches = parse_filters(filters)
        return [snapshot for snapshot in self.records.all() if matches(snapshot)]

    def usage(self, key: str) -> Usage:
        """What it takes of the disk: counted now for an active one, once for a committed one, nothing for a view."""
        snapshot = self.stat(key)
        if snapshot.kind is Kind.VIEW:
            return Usage()
        if snapshot.kind is Kind.ACTIVE:
            return self._directories.usage(snapshot.id)
        usage = self.records.usage(snapshot)
        if usage is None:
            try:
                usage = disk_usage(self._lending.diff(snapshot.layer_id))
            except OSError as error:
                raise storage_error(f"count the bytes of snapshot {key!r}", error) from error
            self.records.note_usage(snapshot, usage)
        return usage

    def clean(self) -> None:
        """Removes what killed processes left, and mends the links and loans of what is there."""
        with self._lock:
            everything = self.records.all()
            own = {one.id: one for one in everything if not one.layer_id}
            gone = self._directories.strays(own.keys())
            for one in own.values():
                if one.kind is Kind.COMMITTED:
                    self._directories.publish(one.id)
            self._mend_loans({one.layer_id for one in everything if one.layer_id})
        for directory in gone:
            self._directories.empty(directory)

    def _mend_loans(self, needed: set[str]) -> None:
        lent = self._lending.names()
        for layer_id in lent.keys() - needed:
            self._lending.take_back(layer_id)
        for layer_id in needed - lent.keys():
            if not self._lending.lend_again(layer_id):
                _LOG.error("layer %s is gone, and snapshots stand upon it: remove the images that have it", layer_id)

    def close(self) -> None:
        self.records.close()

    def _committed(self, name: str, otherwise: type[InputError]) -> Snapshot:
        parent = self.records.get(name)
        if parent is None:
            raise NotFoundError(f"parent snapshot {name[:200]!r} does not exist")
        if parent.kind is not Kind.COMMITTED:
            raise otherwise(f"parent {name!r} is not a committed snapshot")
        return parent

    def _lowers(self, parent: str) -> list[Lower]:
        """A committed snapshot and those below it, uppermost first."""
        return [
            Lower(self._lending.diff(one.layer_id), self._lending.link(one.layer_id), is_own=False)
            if one.layer_id
            else Lower(self._directories.at(one.id) / "fs", self._directories.link(one.id), is_own=True)
            for one in self.records.chain(parent)
        ]


def _is_remapped(below: Snapshot | None, lowers: Sequence[Lower], mapping: IdMapping) -> bool:
    """Whether containerd has changed the owners of all files already, in a snapshot that it committed for that."""
    if below is None or below.layer_id:
        return False
    return owner_of(lowers[0].path) == (mapping.root_uid, mapping.root_gid)


def _check_name(name: str) -> None:
    if not name:
        raise InputError("a snapshot needs a name")
    if len(name.encode()) > _NAME_LIMIT_BYTES:
        raise InputError(f"the name {name[:40]!r}… is longer than {_NAME_LIMIT_BYTES} bytes")


def _checked(labels: Mapping[str, str]) -> dict[str, str]:
    """As containerd keeps them: without those that are empty."""
    if len(labels) > _LABELS_LIMIT:
        raise InputError(f"{len(labels)} labels: a snapshot has at most {_LABELS_LIMIT}")
    for key, value in labels.items():
        if len(key.encode()) + len(value.encode()) > _LABEL_LIMIT_BYTES:
            raise InputError(f"label {key[:40]!r} is too long: key and value have at most {_LABEL_LIMIT_BYTES} bytes")
    return {key: value for key, value in labels.items() if value}
