"""Who decodes when more layers arrive than there are CPUs: the layer with the most left to do goes first."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """At most ``count`` threads have a turn. More of them would only take the interpreter's lock from each other.

    The biggest layer is decoded by one thread: were it one of many, it would end alone, with the other CPUs idle
    (half of them for the last second of seven).
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, threading.Event]] = []

    @contextmanager
    def turn(self, left_bytes: int) -> Iterator[None]:
        """Waits for a turn, which ends with the block.

        Args:
            left_bytes: of the layer; of all who wait, the one with the most is next.
        """
        self._begin(left_bytes)
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def given_away(self, left_bytes: int) -> Iterator[None]:
        """Within a turn, around a wait for anything else: somebody else has it meanwhile."""
        self._end()
        try:
            yield
        finally:
            self._begin(left_bytes)

    def _begin(self, left_bytes: int) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            given = threading.Event()
            heapq.heappush(self._waiting, (-left_bytes, next(self._order), given))
        given.wait()

    def _end(self) -> None:
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].set()  # handed over: nobody comes between
            else:
                self._free += 1
