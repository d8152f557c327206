"""Pieces of one layer's plain bytes: made and written by any thread, hashed in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from imagedist.oci.digest import Hasher
from imagedist.unpack.spare import SpareCpus

Chunk = bytes | memoryview
Make = Callable[[], Chunk]
Put = Callable[[int, Make], None]
"""``put(size_bytes, make)``: the next ``size_bytes`` of plain; ``make`` gives them, later and in any thread."""
Spent = Callable[[str, float], None]
"""``spent(stage, seconds)``, of ``progress.STAGES``; called from any thread."""

STEP_BYTES = 1 << 20
"""At most so many plain bytes in a piece that was streamed. 128 KiB to 1 MiB measure alike (inflate, hash and write
1.05–1.1 s per 300 MB, 4 MiB 1.3 s); the smallest of them that is worth another thread keeps memory low."""

_WORTHWHILE_BYTES = 64 << 10
"""A smaller piece is written and hashed (80 µs) sooner than another thread is woken."""
_WAITING_BYTES = 4 << 20
"""Written pieces that wait for their turn to be hashed, at most."""


@contextmanager
def busy(spent: Spent, stage: str) -> Iterator[None]:
    """Around the work of a stage."""
    began = time.monotonic()
    try:
        yield
    finally:
        spent(stage, time.monotonic() - began)


class Pieces:
    """Where a decoder puts its pieces. ``add`` and ``settle`` belong to one thread.

    Args:
        write_at: ``(offset, plain)``; called from several threads at once.
        spare: whose idle CPUs to use; None: all is done by the thread that adds.
        spent: is told how long making, writing and hashing took.
    """

    def __init__(
        self,
        write_at: Callable[[int, Chunk], None],
        hasher: Hasher,
        spare: SpareCpus | None = None,
        spent: Spent = lambda stage, seconds: None,
    ) -> None:
        self._write_at = write_at
        self._hasher = hasher
        self._spare = spare
        self._spent = spent
        self._changed = threading.Condition()
        self._end_bytes = 0
        self._hashed_bytes = 0
        self._waiting: dict[int, Chunk] = {}
        self._waiting_bytes = 0
        self._is_hashing = False
        self._running = 0
        self._failure: BaseException | None = None

    @property
    def contiguous_bytes(self) -> int:
        """So many are written and hashed without a gap from the start on."""
        return self._hashed_bytes

    def add(self, size_bytes: int, make: Make) -> None:
        """Places the next piece, by an idle CPU if there is one.

        Raises:
            Whatever ``make`` or ``write_at`` raised, of this piece or an earlier one.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            offset = self._end_bytes
            self._end_bytes += size_bytes
            self._running += 1
        place = partial(self._place, offset, make)
        if self._spare is not None and size_bytes >= _WORTHWHILE_BYTES and self._spare.try_run(place):
            return
        place()
        if self._failure is not None:
            raise self._failure

    def settle(self) -> None:
        """Waits until no other thread works on a piece. Raises as ``add``; without an error all are hashed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            if self._failure is not None:
                raise self._failure

    def stop(self, reason: BaseException) -> None:
        """Takes no more pieces and waits for those under way."""
        with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)

    def _place(self, offset: int, make: Make) -> None:
        try:
            with busy(self._spent, "inflate"):
                plain = make()
            with busy(self._spent, "stage"):
                self._write_at(offset, plain)
            self._hash(offset, plain)
        except BaseException as error:  # told to the thread that adds, whichever thread this is
            with self._changed:
                self._failure = self._failure or error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _hash(self, offset: int, plain: Chunk) -> None:
        """Whoever comes while another thread hashes leaves the piece to that one."""
        with self._changed:
            # The piece whose turn it is never waits, so this ends.
            while offset != self._hashed_bytes and self._waiting_bytes >= _WAITING_BYTES and self._failure is None:
                self._changed.wait()
            self._waiting[offset] = plain
            self._waiting_bytes += len(plain)
            if self._is_hashing:
                return
            self._is_hashing = True
        while True:
            with self._changed:
                turn = self._waiting.pop(self._hashed_bytes, None) if self._failure is None else None
                if turn is None:
                    self._is_hashing = False
                    return
            with busy(self._spent, "hash"):
                self._hasher.update(turn)
            with self._changed:
                self._hashed_bytes += len(turn)
                self._waiting_bytes -= len(turn)
                self._changed.notify_all()
