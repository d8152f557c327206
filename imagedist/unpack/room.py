"""Where one layer's tar lies while it is staged: in a ring on the ramdisk, or as a whole, there or on disk."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from imagedist.errors import StorageError, storage_error
from imagedist.unpack.pieces import Chunk
from imagedist.unpack.ramdisk import MAX_STEP_BYTES, Ramdisk
from imagedist.unpack.ring import Ring
from imagedist.unpack.window import StagedTar

RING_BYTES = 16 << 20
"""A decoder runs at most so far ahead of its layer's reader, at first. The less, the more of it is still in a cache
when it is read: the reference image (1.7 GB) took 10.9, 10.6 and 10.2 CPU-seconds with 32, 16 and 8 MiB, and by the
clock no more with the one than with the other."""
_RINGS = 32
"""No ring has a bigger part of the budget than one in so many, at first."""
_MIN_RING_BYTES = 1 << 20
"""A ring of this closes when half of the budget is taken, so that many layers find room. What finds none goes to disk
at once: who waits keeps others from decoding (100 layers, budget 64 MiB: 90 s with waiting, 3 s without)."""
_MIN_STEP_BYTES = 256 << 10
_LOOK_SECONDS = 0.02
"""Nobody tells a decoder that waits for its reader that this one failed, or can do no more."""


class Reader(Protocol):
    """Who consumes the tar while it grows (``workers.Extracting``)."""

    def advance(self, available_bytes: int, expected_bytes: int, *, is_whole: bool = False) -> None: ...
    def hurry(self) -> None: ...
    def move(self, tar: StagedTar) -> None: ...
    @property
    def has_failed(self) -> bool: ...
    @property
    def is_starved(self) -> bool: ...
    @property
    def wants_whole(self) -> bool: ...


class Room:
    """Room for a tar that grows. ``make`` belongs to one thread, the rest to any.

    A tar that is read while it grows needs no more than a ring of the ramdisk, which grows only if its reader can do
    nothing with as much as fits into it. A tar that nobody reads yet is kept as a whole. What the budget has no room
    for goes to disk, and stays there.

    Args:
        told: settles what is written, tells the reader of it, and returns how many bytes that is.
        paused: is entered by ``make`` while it waits for others.

    Attributes:
        is_on_ramdisk: False: it did not fit, or there is none.

    Raises:
        StorageError: the file cannot be created.
    """

    def __init__(
        self,
        ramdisk: Ramdisk,
        told: Callable[[], int],
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ramdisk = ramdisk
        self._told = told
        self._paused = paused
        self._reader: Reader | None = None
        self._writing = threading.Lock()  # the kernel, too, lets one thread at a time write to a file
        self._moving = threading.RLock()  # whoever has it may say where the tar is, and how much of it
        self._progress = threading.Condition()
        self._end_bytes = 0
        self._consumed_bytes = 0
        self._reserved_bytes = 0
        self._min_ring_bytes = max(1, min(_MIN_RING_BYTES, ramdisk.budget_bytes // 4))
        self._is_closed = False
        self.is_on_ramdisk = ramdisk.budget_bytes > 0
        self._ring = Ring(ramdisk.new_path() if self.is_on_ramdisk else ramdisk.new_spill_path())

    @property
    def path(self) -> Path:
        return self._ring.tar.path

    @property
    def has_failed(self) -> bool:
        """Its reader has."""
        return self._reader is not None and self._reader.has_failed

    def read_by(self, reader: Reader, *, is_whole: bool) -> None:
        """Says who reads the tar: ``is_whole``, all of which was written, or nothing yet."""
        self._reader = reader
        if not is_whole and self.is_on_ramdisk:
            self._ring.resize(max(self._min_ring_bytes, min(RING_BYTES, self._ramdisk.budget_bytes // _RINGS)))
            reader.move(self._ring.tar)

    def tell(self, available_bytes: int, expected_bytes: int, *, is_whole: bool = False) -> None:
        """Tells the reader, as ``Reader.advance`` says: never of bytes that are not where it looks for them."""
        if self._reader is not None:
            with self._moving:
                self._reader.advance(available_bytes, expected_bytes, is_whole=is_whole)

    def consumed(self, position: int) -> None:
        """What lies before ``position`` is not needed any more."""
        with self._progress:
            self._consumed_bytes = max(self._consumed_bytes, position)
            self._progress.notify_all()

    def make(self, end_bytes: int) -> bool:
        """Waits until everything before ``end_bytes`` may be written. False: the reader failed, nobody needs it.

        Raises:
            StorageError: there is no room on disk either, or it was closed meanwhile.
        """
        self._end_bytes = end_bytes
        while not self.has_failed:
            if self._is_closed:
                raise StorageError("cannot stage a layer: it was aborted")
            if self._is_full:
                self._wait()
            elif self.is_on_ramdisk and min(end_bytes, self._ring.tar.ring_bytes) > self._reserved_bytes:
                self._reserve()
            else:
                return True
        return False

    def write_at(self, offset: int, plain: Chunk) -> None:
        """Writes a piece for which room was made.

        Raises:
            StorageError: the disk failed.
        """
        view = memoryview(plain)
        while view:
            is_on_ramdisk = self.is_on_ramdisk
            try:
                with self._writing:
                    written = self._ring.write(offset, view)
            except OSError as error:
                if error.errno != errno.ENOSPC or not is_on_ramdisk:
                    raise storage_error("write a staged tar", error) from error
                self._spill()  # somebody else filled the ramdisk
                continue
            view, offset = view[written:], offset + written

    def close(self) -> None:
        """Gives file and budget back; nobody reads or writes the tar any more. Harmless when it was done already."""
        with self._moving:
            if not self._is_closed:
                self._is_closed = True
                self._ring.close()
                self._ramdisk.release(self._reserved_bytes)

    @property
    def _is_full(self) -> bool:
        """The next piece would take the place of bytes that are not consumed."""
        return self._reader is not None and self._end_bytes - self._consumed_bytes > self._ring.tar.ring_bytes

    def _wait(self) -> None:
        """Until the reader has consumed enough; if it cannot, the ring grows."""
        reader = self._reader
        assert reader is not None
        written_bytes = self._told()
        reader.hurry()
        with self._paused(), self._progress:
            while True:
                is_stuck = reader.wants_whole or reader.is_starved  # asked first: what it consumed it has said by then
                if reader.has_failed or not self._is_full:
                    return
                if is_stuck:
                    break
                self._progress.wait(_LOOK_SECONDS)
        self._grow(reader, written_bytes)

    def _reserve(self) -> None:
        """More of the ramdisk, a little at first, for a ring's first lap or for a tar that is kept as a whole."""
        ring_bytes = self._ring.tar.ring_bytes
        most_bytes = min(MAX_STEP_BYTES, self._ramdisk.budget_bytes // 16)
        missing_bytes = min(self._end_bytes, ring_bytes) - self._reserved_bytes
        step_bytes = max(min(max(self._end_bytes, _MIN_STEP_BYTES), most_bytes), missing_bytes)
        step_bytes = min(step_bytes, ring_bytes - self._reserved_bytes)
        if self._reader is not None and self._reserved_bytes >= self._min_ring_bytes:
            if self._ramdisk.reserve_of_half(step_bytes):
                self._take(step_bytes)
            else:
                self._close_ring(self._reader)
        elif self._ramdisk.reserve(step_bytes, wait=False) or self._waited_for(step_bytes):
            self._take(step_bytes)
        else:
            self._spill()

    def _waited_for(self, size_bytes: int) -> bool:
        """Whether the budget has room after all, for a tar that is kept as a whole."""
        if self._reader is not None:
            return False
        with self._paused():
            return self._ramdisk.reserve(size_bytes, give_up=lambda: self._is_closed)

    def _close_ring(self, reader: Reader) -> None:
        with self._moving:
            if self.is_on_ramdisk:
                self._ring.resize(self._reserved_bytes)
                reader.move(self._ring.tar)

    def _take(self, size_bytes: int) -> bool:
        """Of what was reserved. False: this tar needs no more of the ramdisk."""
        with self._moving:
            if self.is_on_ramdisk and not self._is_closed:
                self._reserved_bytes += size_bytes
                return True
        self._ramdisk.release(size_bytes)
        return False

    def _grow(self, reader: Reader, written_bytes: int) -> None:
        """Doubles the ring, while nobody writes, or moves the tar to disk for good."""
        missing_bytes = 2 * self._ring.tar.ring_bytes - self._reserved_bytes
        is_there = self._ramdisk.reserve(missing_bytes, wait=False)
        if not is_there or (self._take(missing_bytes) and not self._has_doubled(reader, written_bytes)):
            self._spill()

    def _has_doubled(self, reader: Reader, written_bytes: int) -> bool:
        """False: somebody else filled the ramdisk."""
        with self._moving:
            if self._is_closed:
                return True
            try:
                self._ring.double(self._consumed_bytes, written_bytes)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise storage_error("write a staged tar", error) from error
                return False
            reader.move(self._ring.tar)
            return True

    def _spill(self) -> None:
        with self._moving:
            if not self.is_on_ramdisk or self._is_closed:
                return
            disk = Ring(self._ramdisk.new_spill_path())
            with self._writing:
                ring, start = self._ring, self._consumed_bytes
                try:
                    ring.copy_to(disk, start, min(self._end_bytes, start + ring.tar.ring_bytes))
                except OSError as error:
                    disk.close()
                    raise storage_error("spill a staged tar to disk", error) from error
                self._ring, self.is_on_ramdisk = disk, False
            if self._reader is not None:
                self._reader.move(disk.tar)
            ring.close()
            self._ramdisk.release(self._reserved_bytes)
            self._reserved_bytes = 0
