"""How many workers may write at a time: as many as make the disk no slower."""

from __future__ import annotations

import time
from collections.abc import Callable

_WINDOW_SECONDS = 0.5
_WINDOW_BYTES = 16 << 20
_IDLE_SECONDS = 0.1
_BUSY_SHARE = 0.7
"""Writers that are on a CPU, or want one, for most of their time do not wait for a disk: more of them are better."""
_GAIN = 1.05


class Writers:
    """Climbs towards the number of writers with the highest throughput, one step per window.

    Below some 600 MB/s of disk more writers made pulls slower (facts of SOCI's parallel mode), and no fixed number is
    right for tmpfs and for a network disk. Not safe for threads: the caller has a lock.

    Args:
        most: writers there are.

    Attributes:
        limit: how many may be at work.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self.limit = most
        self._active = 0
        self._idle_since = clock()
        self._step = -1
        self._before: float | None = None
        self._reset()

    def may_begin(self) -> bool:
        return self._active < self.limit

    def begin(self) -> None:
        if self._active == 0 and self._clock() - self._idle_since >= _IDLE_SECONDS:
            self._reset()  # an idle time says nothing of the disk
        self._active += 1

    def end(self, written_bytes: int, seconds: float, busy_seconds: float) -> None:
        """A writer is done: what it wrote, how long that took, and how much of it on a CPU or waiting for one."""
        self._active -= 1
        self._idle_since = self._clock()
        self._bytes += written_bytes
        self._seconds += seconds
        self._busy_seconds += busy_seconds
        took_seconds = self._clock() - self._since
        if took_seconds >= _WINDOW_SECONDS and self._bytes >= _WINDOW_BYTES:
            self._adapt(self._bytes / took_seconds)
            self._reset()

    def _adapt(self, rate: float) -> None:
        if self._busy_seconds >= _BUSY_SHARE * self._seconds:
            self.limit, self._before = self._most, None
            return
        if self._before is not None and rate < self._before * _GAIN:
            self._step = -self._step
        self._before = rate
        self.limit = min(self._most, max(1, self.limit + self._step))

    def _reset(self) -> None:
        self._since = self._clock()
        self._bytes = 0
        self._seconds = self._busy_seconds = 0.0
