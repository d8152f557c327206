"""layers.json and images.json: lists of records under a lock file, exactly as containers/storage keeps them.

Format: github.com/containers/storage, layers.go, images.go, pkg/lockfile (a 64-byte last-writer token in the lock file
tells long-running readers to load again), store.go (``makeBigDataBaseName``).
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagedist.errors import StorageError, storage_error
from imagedist.locking import locked

Record = dict[str, Any]

ASIDE = ".*.tmp"
"""Files that are being written aside."""
_TOKEN_BYTES = 64
_counter = itertools.count(1)
_PLAIN_NAME = re.compile(r"[a-z0-9.]+\Z")


class Records:
    """One such list. Keys that we do not know are kept.

    Args:
        path: the JSON file; its lock file is beside it (``layers.json`` → ``layers.lock``).
        is_durable: whether a change is on the disk before ``changing`` ends.
    """

    def __init__(self, path: Path, is_durable: bool) -> None:
        self.path = path
        self._lock = path.with_suffix(".lock")
        self._is_durable = is_durable

    def read(self) -> list[Record]:
        """The records now.

        Raises:
            StorageError: not readable, or not JSON.
        """
        with self.reading() as records:
            return records

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[Record]]:
        """The records, which nobody changes for the length of a ``with`` block."""
        with locked(self._lock, shared=True):
            yield self._load()

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Record]]:
        """The records, to be changed in place; written aside and renamed when the block ends without an error."""
        with locked(self._lock) as lock:
            records = self._load()
            before = json.dumps(records)
            yield records
            if json.dumps(records) == before:
                return
            # First: killed before the rename, we have readers load the old list again; after it, they miss nothing.
            lock.write(_token())
            write_aside(self.path, json.dumps(records, separators=(",", ":")).encode(), self._is_durable)

    def _load(self) -> list[Record]:
        try:
            content = self.path.read_bytes()
            records = json.loads(content) if content else []
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error("read the image store", error) from error
        except ValueError as error:
            raise StorageError(f"{self.path} is not JSON: {error}; restore it, or remove the store's root") from error
        if not isinstance(records, list):
            raise StorageError(f"{self.path} is not a list of records; restore it, or remove the store's root")
        return records


def write_aside(path: Path, content: bytes, is_durable: bool) -> None:
    """Writes a whole file under another name, then renames it into place. The caller is its only writer, by a lock.

    What a killed writer left aside is the next one's to overwrite.

    Args:
        is_durable: the content is on the disk before it gets its name, and the name before this returns.

    Raises:
        StorageError: the disk failed; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(content)
                if is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        if is_durable:
            fsync_directory(path.parent)
    except OSError as error:
        raise storage_error(f"write {path}", error) from error


def fsync_directory(directory: Path) -> None:
    """Makes the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def big_file_name(key: str) -> str:
    """The file that holds a record's big datum, as ``makeBigDataBaseName`` names it."""
    return key if _PLAIN_NAME.match(key) else "=" + base64.b64encode(key.encode()).decode()


def now() -> str:
    """RFC 3339 with nanoseconds, as Go writes a time."""
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"


def _token() -> bytes:
    head = struct.pack("<QQI", time.time_ns(), next(_counter), os.getpid())
    return head + os.urandom(_TOKEN_BYTES - len(head))
