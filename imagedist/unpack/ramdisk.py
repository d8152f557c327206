"""A directory on tmpfs with one byte budget for the whole machine, and a place on disk for what does not fit."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from imagedist.errors import StorageError
from imagedist.locking import PrivateDirectory, locked, private_locks, remove_abandoned

MAX_STEP_BYTES = 16 << 20
"""Reserved at a time, at most."""
WAIT_SECONDS = 2.0
_MAX_WAITS = 30
_COUNT_BYTES = 20


class Ramdisk:
    """Staged tars live here. Opening removes what dead processes left, here and in ``spill``.

    Each process has a private directory whose lock file also says how much of the budget it has reserved; the sum over
    all living processes never exceeds ``budget_bytes``. Safe to use from many threads.

    Args:
        directory: on tmpfs; created when it is not there.
        budget_bytes: hard, over all processes that use ``directory``.
        spill: a directory on disk for layers over the budget.
        wait_seconds: how long a layer over the budget waits for somebody to release before it spills.
    """

    def __init__(self, directory: Path, budget_bytes: int, spill: Path, wait_seconds: float = WAIT_SECONDS) -> None:
        if budget_bytes < 0:
            raise StorageError(f"the ramdisk budget of {directory} is negative: expected bytes, 0 to use the disk only")
        self.directory = directory
        self.budget_bytes = budget_bytes
        self._wait_seconds = wait_seconds
        self._released = threading.Condition()
        self._release_count = 0
        self._memory = PrivateDirectory(directory)
        try:
            self._disk = PrivateDirectory(spill)
        except StorageError:
            self._memory.close()
            raise

    def new_path(self) -> Path:
        """A fresh name on the ramdisk; what is written there must have been reserved."""
        return self._memory.path / uuid.uuid4().hex

    def new_spill_path(self) -> Path:
        """A fresh name on disk."""
        return self._disk.path / uuid.uuid4().hex

    def reserve(self, size_bytes: int, *, wait: bool = True, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Takes bytes from the budget. False: spill instead.

        Args:
            wait: for others to give some back, as long as they do.
            give_up: asked now and then; True: nobody wants the bytes any more.
        """
        if size_bytes > self.budget_bytes:
            return False
        now = time.monotonic()
        deadline, last_deadline = now + self._wait_seconds, now + _MAX_WAITS * self._wait_seconds
        with self._released:
            while not self._change(size_bytes):
                seen, now = self._release_count, time.monotonic()
                if not wait or give_up() or now >= min(deadline, last_deadline):
                    return False
                # Other processes cannot notify this condition, hence the short turns.
                self._released.wait(min(deadline - now, 0.05))
                if self._release_count != seen:
                    deadline = time.monotonic() + self._wait_seconds
        return True

    def reserve_of_half(self, size_bytes: int) -> bool:
        """Takes bytes that one could do without: only while half of the budget stays free for those who could not."""
        with self._released:
            return self._change(size_bytes, self.budget_bytes // 2)

    def release(self, size_bytes: int) -> None:
        """Gives reserved bytes back."""
        with self._released:
            self._change(-size_bytes)
            self._release_count += 1
            self._released.notify_all()

    def reserved_bytes(self) -> int:
        """Over all living processes."""
        with locked(self.directory / ".lock"):
            return self._reserved_bytes()

    def _change(self, size_bytes: int, left_bytes: int = 0) -> bool:
        most_bytes = self.budget_bytes - left_bytes
        with locked(self.directory / ".lock"):
            if size_bytes > 0 and self._reserved_bytes() + size_bytes > most_bytes:
                remove_abandoned(self.directory)  # pages and reservation of a process that was killed
                if self._reserved_bytes() + size_bytes > most_bytes:
                    return False
            mine = int(self._memory.lock.read(_COUNT_BYTES) or b"0")
            self._memory.lock.write(b"%d" % (mine + size_bytes))
            return True

    def _reserved_bytes(self) -> int:
        """Under the machine-wide lock. What a dead process reserved counts as long as its pages are there."""
        total = 0
        for lock in private_locks(self.directory):
            try:
                count = lock.read(_COUNT_BYTES)
                total += int(count) if count.isdigit() else 0
            finally:
                lock.close()
        return total

    def close(self) -> None:
        """Removes everything that is staged."""
        self._memory.close()
        self._disk.close()
