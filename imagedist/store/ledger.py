"""What a store's files take, in one number for all processes of a machine: never below the truth. Blocking.

Whoever adds bytes adds them here first, whoever removes some subtracts them afterwards, both under the lock of the
file ``usage``. A process that is killed in between leaves the number too high until the files are counted anew
(``inventory``): at each start, and before anything is evicted. So the quota always holds, and asking for room reads
one line instead of a directory of 100,000 blobs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import storage_error
from imagedist.locking import LockFile
from imagedist.metrics import STORE_BYTES
from imagedist.store.files import write_aside

_DIGITS = 20
_LINE_BYTES = 3 * (_DIGITS + 1)


class Usage(NamedTuple):
    """``used_bytes`` counts what has arrived and the room promised to what is arriving. Evictions: since the store
    was made."""

    used_bytes: int = 0
    evicted_files: int = 0
    evicted_bytes: int = 0


class Ledger:
    """One store's ``usage`` file.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._lock = LockFile(path)
        self._turn = threading.Lock()
        self._finalizer = weakref.finalize(self, self._lock.close)

    def read(self) -> Usage:
        """
        Raises:
            StorageError: the disk failed.
        """
        try:
            words = self._lock.read(_LINE_BYTES).split()
        except OSError as error:
            raise storage_error(f"read {self._lock.path}", error) from error
        if len(words) < 3 or not all(word.isdigit() for word in words[:3]):
            return Usage()  # new: whoever opens the store counts its files at once
        return Usage(*map(int, words[:3]))

    @contextlib.contextmanager
    def changing(self) -> Iterator[Entry]:
        """Holds the lock; what the block does to its entry is written at its end.

        Raises:
            StorageError: the lock cannot be had.
        """
        with self._turn:
            self._lock.acquire()
            try:
                entry = Entry(self.read(), self._write)
                try:
                    yield entry
                finally:
                    self._write(entry.usage)
            finally:
                self._lock.release()

    def write(self, path: Path, content: bytes, *, durable: bool = False) -> None:
        """Replaces a counted file in one step (``write_aside``). Raises as that does."""
        with self.changing() as entry:
            before = _size(path)
            entry.add(len(content))
            try:
                write_aside(path, content, durable=durable)
            except BaseException:
                entry.add(-len(content))
                raise
            entry.add(-before)

    def unlink(self, path: Path) -> int:
        """Removes a counted file, if it is there; returns its bytes.

        Raises:
            StorageError: it cannot be removed.
        """
        if not os.path.lexists(path):
            return 0
        with self.changing() as entry:
            size_bytes = _size(path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(f"remove {path}", error) from error
            entry.add(-size_bytes)
        return size_bytes

    def _write(self, usage: Usage) -> None:
        # One write of one length: a kill cannot cut it.
        self._lock.write(b"".join(b"%0*d\n" % (_DIGITS, number) for number in usage))
        STORE_BYTES.set(usage.used_bytes)


class Entry:
    """The ledger's numbers while its lock is held."""

    def __init__(self, usage: Usage, write: Callable[[Usage], None]) -> None:
        self.usage = usage
        self._write = write

    def add(self, size_bytes: int) -> None:
        """More is written down at once: a kill from here on leaves too much in the book, never too little."""
        self.usage = self.usage._replace(used_bytes=max(0, self.usage.used_bytes + size_bytes))
        if size_bytes > 0:
            self._write(self.usage)

    def set(self, used_bytes: int) -> None:
        """What a count of the files found."""
        self.usage = self.usage._replace(used_bytes=used_bytes)

    def note_eviction(self, size_bytes: int) -> None:
        used, files, evicted_bytes = self.usage
        self.usage = Usage(used, files + 1, evicted_bytes + size_bytes)


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(f"look up {path}", error) from error
