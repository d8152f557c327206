"""The snapshots' metadata in one SQLite database: the only file that says what there is."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from imagedist.errors import StorageError
from imagedist.snapshotter.snapshot import Kind, Snapshot, Usage

VERSION = 1
"""Of the tables, as SQLite's user_version. A newer imagedist that changes them counts up, and migrates."""

_TABLES = """
CREATE TABLE snapshots (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- no id comes twice: directories are named by them
    name       TEXT NOT NULL UNIQUE,
    parent_id  INTEGER REFERENCES snapshots (id),
    kind       INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    labels     TEXT NOT NULL,                      -- a JSON object
    layer_id   TEXT NOT NULL DEFAULT '',           -- of the store; empty: the snapshot has a directory
    size_bytes INTEGER,                            -- of a committed one, once counted
    inodes     INTEGER
);
CREATE INDEX snapshots_by_parent ON snapshots (parent_id);
CREATE INDEX snapshots_by_layer ON snapshots (layer_id) WHERE layer_id != '';
CREATE TABLE pulled_images (                       -- in the store for containerd alone
    id       TEXT PRIMARY KEY,
    last_use REAL NOT NULL                         -- seconds since the epoch; a later one is somebody else's
);
"""
_COLUMNS = """SELECT one.id, one.name, coalesce(below.name, ''), one.kind, one.created_ns, one.updated_ns, one.labels,
    one.layer_id FROM snapshots AS one LEFT JOIN snapshots AS below ON below.id = one.parent_id"""
_BUSY_SECONDS = 10.0


class Records:
    """The tables. Several threads may share it; a change is one transaction, on the disk when ``changing`` ends.

    Args:
        path: of the database; created if missing. is_read_only: only look; it must be there.
        may_be_new: False: there are snapshots, and without their records they would all be taken for left-overs.

    Raises:
        StorageError: damaged, not readable, or written by a newer version. So do all methods.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False, may_be_new: bool = True) -> None:
        self._lock = threading.RLock()
        self._path = path
        with _mapped(path):
            self._database = sqlite3.connect(
                f"file:{quote(str(path))}?mode={'ro' if is_read_only else 'rwc'}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,  # transactions are ours to begin
                check_same_thread=False,
            )
            try:
                self._prepare(is_read_only, may_be_new)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, is_read_only: bool, may_be_new: bool) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StorageError(
                f"{self._path} is of version {version}, this imagedist knows {VERSION}: use the newer imagedist again"
            )
        if is_read_only:
            return
        if version == 0 and not may_be_new:  # before tables are made, or the next start would trust them
            raise StorageError(
                f"{self._path} is gone or empty, and snapshots lie beside it: put it back, or remove the numbered "
                "directories there (containers' own files) if nobody wants them"
            )
        # One fsync for each change (FULL), and readers that never wait.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        if version == 0:
            self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One change of several steps: all of it or, left by an exception, nothing. Nobody else changes anything."""
        with self._lock, _mapped(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def get(self, name: str) -> Snapshot | None:
        rows = self._rows(f"{_COLUMNS} WHERE one.name = ?", name)
        return _snapshot(rows[0]) if rows else None

    def all(self) -> list[Snapshot]:
        """Every snapshot, by name."""
        return [_snapshot(row) for row in self._rows(f"{_COLUMNS} ORDER BY one.name")]

    def chain(self, name: str) -> list[Snapshot]:
        """The snapshot and those below it, itself first."""
        found: list[Snapshot] = []
        while name and (one := self.get(name)) is not None:
            found.append(one)
            name = one.parent
        return found

    def has_children(self, snapshot: Snapshot) -> bool:
        return bool(self._rows("SELECT 1 FROM snapshots WHERE parent_id = ? LIMIT 1", snapshot.id))

    def uses_layer(self, layer_id: str) -> bool:
        return bool(self._rows("SELECT 1 FROM snapshots WHERE layer_id = ? LIMIT 1", layer_id))

    def add(
        self,
        name: str,
        parent: Snapshot | None,
        kind: Kind,
        now_ns: int,
        labels: Mapping[str, str],
        layer_id: str = "",
    ) -> int:
        """Returns the id."""
        self._rows(
            "INSERT INTO snapshots (name, parent_id, kind, created_ns, updated_ns, labels, layer_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(name, parent.id if parent else None, int(kind), now_ns, now_ns, _text(labels), layer_id),
        )
        return int(self._rows("SELECT last_insert_rowid()")[0][0])

    def commit(
        self,
        snapshot: Snapshot,
        name: str,
        parent: Snapshot | None,
        now_ns: int,
        labels: Mapping[str, str],
        usage: Usage,
    ) -> None:
        """An active snapshot becomes the committed one of this name."""
        self._rows(
            "UPDATE snapshots SET name = ?, parent_id = ?, kind = ?, created_ns = ?, updated_ns = ?, labels = ?,"
            " size_bytes = ?, inodes = ? WHERE id = ?",
            *(name, parent.id if parent else None, int(Kind.COMMITTED), now_ns, now_ns, _text(labels)),
            *(usage.size_bytes, usage.inodes, snapshot.id),
        )

    def relabel(self, snapshot: Snapshot, now_ns: int, labels: Mapping[str, str]) -> None:
        self._rows("UPDATE snapshots SET labels = ?, updated_ns = ? WHERE id = ?", _text(labels), now_ns, snapshot.id)

    def remove(self, snapshot: Snapshot) -> None:
        self._rows("DELETE FROM snapshots WHERE id = ?", snapshot.id)

    def usage(self, snapshot: Snapshot) -> Usage | None:
        """None: not counted yet."""
        rows = self._rows("SELECT size_bytes, inodes FROM snapshots WHERE id = ?", snapshot.id)
        return Usage(*rows[0]) if rows and rows[0][0] is not None else None

    def note_usage(self, snapshot: Snapshot, usage: Usage) -> None:
        self._rows(
            "UPDATE snapshots SET size_bytes = ?, inodes = ? WHERE id = ?",
            *(usage.size_bytes, usage.inodes, snapshot.id),
        )

    def pulled_images(self) -> dict[str, float]:
        """Images that the store has for containerd alone: id → when they were pulled."""
        return dict(self._rows("SELECT id, last_use FROM pulled_images"))

    def note_pulled(self, image_id: str, last_use: float) -> None:
        self._rows("INSERT OR REPLACE INTO pulled_images VALUES (?, ?)", image_id, last_use)

    def forget_pulled(self, image_id: str) -> None:
        self._rows("DELETE FROM pulled_images WHERE id = ?", image_id)

    def close(self) -> None:
        """Harmless when it is closed already."""
        with self._lock:
            self._database.close()

    def _rows(self, statement: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]  # as the columns are
        with self._lock, _mapped(self._path):
            return self._database.execute(statement, values).fetchall()


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"the database of the snapshots, {path}, failed: {error}; see that its disk has space and is writable"
        ) from error


def _snapshot(row: tuple) -> Snapshot:  # type: ignore[type-arg]  # as the columns are
    number, name, parent, kind, created_ns, updated_ns, labels, layer_id = row
    return Snapshot(number, name, parent, Kind(kind), created_ns, updated_ns, json.loads(labels), layer_id)


def _text(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), ensure_ascii=False)
