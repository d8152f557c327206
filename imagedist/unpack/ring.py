"""The file of a staged tar, whose pages are used again once their bytes were consumed."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from imagedist.errors import storage_error
from imagedist.unpack.window import UNLIMITED, StagedTar


class Ring:
    """Writes bytes of a tar to their places. Not safe for threads: the caller has a lock.

    On a machine whose host takes free pages back, a fresh page costs a fault, a charge and an insertion into the page
    cache, and giving it back costs as much again: with a ring, pulls take 7–9 % less CPU.

    Args:
        path: a new file.
        ring_bytes: as of ``StagedTar``.

    Attributes:
        tar: for readers.

    Raises:
        StorageError: it cannot be created.
    """

    def __init__(self, path: Path, ring_bytes: int = UNLIMITED) -> None:
        self.tar = StagedTar(path, ring_bytes)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error("create a staged tar", error) from error
        self._map: mmap.mmap | None = None
        self._mapped_from = UNLIMITED
        if self.tar.is_ring:
            self.resize(ring_bytes)

    def write(self, offset: int, plain: memoryview) -> int:
        """Writes what comes before the ring closes, or less. Returns how many bytes.

        The first lap is written by the kernel, which says so if there is no room. After that every page is there, and
        is written as memory: a third of the time (0.06 instead of 0.2 s per GB).

        Raises:
            OSError: no room.
        """
        ring_bytes = self.tar.ring_bytes
        place = offset % ring_bytes
        part = plain[: ring_bytes - place]
        if offset < self._mapped_from:
            return os.pwrite(self._descriptor, part, place)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, ring_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._map[place : place + len(part)] = part
        return len(part)

    def resize(self, ring_bytes: int) -> None:
        """While nothing was written beyond ``ring_bytes``, and the ring never closed.

        Raises:
            StorageError: the file system cannot hold such a file.
        """
        try:
            self._set_size(ring_bytes, 0)
        except OSError as error:
            raise storage_error("create a staged tar", error) from error

    def double(self, start: int, end: int) -> None:
        """Twice the room. The bytes in use can also be read in the old way, until others are written.

        Args:
            start, end: the bytes in use, not more than the ring has.

        Raises:
            OSError: no room; nothing has changed.
        """
        ring_bytes = self.tar.ring_bytes
        for lap in {start // ring_bytes, end // ring_bytes}:
            if lap % 2:  # every second lap goes behind what the ring was before
                first, last = max(start, lap * ring_bytes), min(end, (lap + 1) * ring_bytes)
                place = first % ring_bytes
                _copy(self._descriptor, place, self._descriptor, place + ring_bytes, last - first)
        self._set_size(2 * ring_bytes, end)

    def _set_size(self, ring_bytes: int, end: int) -> None:
        os.ftruncate(self._descriptor, ring_bytes)  # readers map all of it
        self.tar = self.tar._replace(ring_bytes=ring_bytes)
        self._unmap()
        self._mapped_from = end + ring_bytes  # a lap further each page was written

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def copy_to(self, other: Ring, start: int, end: int) -> None:
        """Copies bytes to where ``other``, which has all of the tar, has them.

        Raises:
            OSError: no room.
        """
        while start < end:
            place = start % self.tar.ring_bytes
            size_bytes = min(end - start, self.tar.ring_bytes - place)
            _copy(self._descriptor, place, other._descriptor, start, size_bytes)
            start += size_bytes

    def close(self) -> None:
        """Removes the file."""
        self._unmap()
        os.close(self._descriptor)
        self.tar.path.unlink(missing_ok=True)


def _copy(source: int, place: int, target: int, target_place: int, size_bytes: int) -> None:
    """As far as the source goes."""
    os.lseek(target, target_place, os.SEEK_SET)
    while size_bytes > 0 and (count := os.sendfile(target, source, place, size_bytes)):
        place, size_bytes = place + count, size_bytes - count
