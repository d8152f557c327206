"""A staged tar that may still be growing, read in order: a ring as it lies in memory, a whole one by a small buffer.

Only a ring is mapped, as its pages are used again and again: of a whole tar each would be fresh, and a page fault costs
more than the copy it saves (1.4 GB/s read into a buffer, 0.25 GB/s through a fresh map).
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import NamedTuple

from imagedist.errors import StorageError

BUFFER_BYTES = 256 << 10
"""Fits a core's cache beside what is done with it."""
UNLIMITED = sys.maxsize


class StagedTar(NamedTuple):
    """Where a staged tar is.

    Attributes:
        path: of its file.
        ring_bytes: byte ``x`` of the tar lies at ``x % ring_bytes`` of the file, so it is there only until it is
            consumed. ``UNLIMITED``: the file has all of the tar, each byte at its own place.
    """

    path: Path
    ring_bytes: int = UNLIMITED

    @property
    def is_ring(self) -> bool:
        return self.ring_bytes != UNLIMITED


class NotYet(Exception):
    """The bytes asked for have not arrived."""


class Window:
    """Slices of the tar, as a memoryview does, valid until the next slice is taken.

    Args:
        buffer: may be shared by windows whose ``extend`` calls say whose turn it is.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, tar: StagedTar, buffer: memoryview) -> None:
        self._buffer = buffer
        self._descriptor = -1
        self._ring: memoryview | None
        self._open(tar)
        self._start = 0
        self._end = 0
        self.available_bytes = 0
        self._is_whole = False

    def close(self) -> None:
        self._ring = None
        os.close(self._descriptor)

    def extend(self, available_bytes: int, is_whole: bool) -> None:
        """So many bytes are there now; ``is_whole``: there will be no more."""
        self.available_bytes, self._is_whole = available_bytes, is_whole
        self._start = self._end = 0

    def move(self, tar: StagedTar) -> None:
        """The same bytes go on in another file, or elsewhere in this one. Raises OSError: it cannot be opened."""
        before = self._descriptor
        self._open(tar)
        os.close(before)
        self._start = self._end = 0

    def _open(self, tar: StagedTar) -> None:
        descriptor = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # It is unmapped with the last slice of it.
            ring = memoryview(mmap.mmap(descriptor, tar.ring_bytes, prot=mmap.PROT_READ)) if tar.is_ring else None
        except (OSError, ValueError) as error:  # shorter than it should be
            os.close(descriptor)
            raise _short(tar.ring_bytes) from error
        self._descriptor, self._ring, self._ring_bytes = descriptor, ring, tar.ring_bytes

    def has(self, end: int) -> bool:
        """Whether everything before ``end`` can be read, or never will."""
        return self._is_whole or end <= self.available_bytes

    def __len__(self) -> int:
        return self.available_bytes if self._is_whole else sys.maxsize

    def at_hand(self, start: int, *, fresh: bool = False) -> memoryview:
        """What lies together from ``start`` on, maybe nothing; if it is ``fresh``, as much as has arrived and fits."""
        if self._ring is not None:
            place = start % self._ring_bytes
            return self._ring[place : place + max(0, self.available_bytes - start)]
        if fresh:
            self._fill(start)
        elif not self._start <= start <= self._end:
            return self._buffer[:0]
        return self._buffer[start - self._start : self._end - self._start]

    def __getitem__(self, span: slice, /) -> memoryview | bytes:
        start, stop = span.start, span.stop
        if self._start <= start and stop <= self._end:
            return self._buffer[start - self._start : stop - self._start]
        if stop > self.available_bytes:
            if not self._is_whole:
                raise NotYet
            stop = max(self.available_bytes, start)
        if self._ring is not None:
            place, size_bytes = start % self._ring_bytes, stop - start
            if place + size_bytes <= self._ring_bytes:
                return self._ring[place : place + size_bytes]
            return b"".join((self._ring[place:], self._ring[: place + size_bytes - self._ring_bytes]))
        if stop - start > len(self._buffer):
            content = bytearray(stop - start)
            if self._read(memoryview(content), start) < len(content):
                raise _short(stop)
            return bytes(content)
        self._fill(start)
        if stop > self._end:
            raise _short(stop)
        return self._buffer[: stop - start]

    def _fill(self, start: int) -> None:
        wanted = max(0, min(len(self._buffer), self.available_bytes - start))
        self._start, self._end = start, start + self._read(self._buffer[:wanted], start)

    def _read(self, target: memoryview, start: int) -> int:
        """As much as there is for ``target``."""
        got = 0
        while got < len(target) and (count := os.preadv(self._descriptor, [target[got:]], start + got)):
            got += count
        return got


def _short(end: int) -> StorageError:
    return StorageError(f"a staged tar was cut off before byte {end}: something else changed it")
