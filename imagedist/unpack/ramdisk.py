"""A directory on tmpfs with one byte budget for the whole machine, and a place on disk for what does not fit."""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

from imagedist.errors import StorageError, storage_error
from imagedist.locking import PrivateDirectory, locked, private_locks, remove_abandoned

RESERVATION_BYTES = 16 << 20
WAIT_SECONDS = 2.0
_COUNT_BYTES = 20


class Ramdisk:
    """Staged tars live here. Opening removes what dead processes left, here and in ``spill``.

    Each process has a private directory whose lock file also says how much of the budget it has reserved; the sum over
    all living processes never exceeds ``budget_bytes``. Safe to use from many threads.

    Args:
        directory: on tmpfs; created when it is not there.
        budget_bytes: hard, over all processes that use ``directory``.
        spill: a directory on disk for layers over the budget.
        wait_seconds: how long a layer over the budget waits for others to release before it spills.
    """

    def __init__(self, directory: Path, budget_bytes: int, spill: Path, wait_seconds: float = WAIT_SECONDS) -> None:
        if budget_bytes < 0:
            raise StorageError(f"the ramdisk budget of {directory} is negative: expected bytes, 0 to use the disk only")
        self.directory = directory
        self.budget_bytes = budget_bytes
        self._wait_seconds = wait_seconds
        self._released = threading.Condition()
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

    def reserve(self, size_bytes: int) -> bool:
        """Takes bytes from the budget, waiting a bounded time for others to give some back. False: spill instead."""
        if size_bytes > self.budget_bytes:
            return False
        deadline = time.monotonic() + self._wait_seconds
        with self._released:
            while not self._change(size_bytes):
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    return False
                # Other processes cannot notify this condition, hence the short turns.
                self._released.wait(min(left_seconds, 0.05))
        return True

    def release(self, size_bytes: int) -> None:
        """Gives reserved bytes back."""
        with self._released:
            self._change(-size_bytes)
            self._released.notify_all()

    def reserved_bytes(self) -> int:
        """Over all living processes."""
        with locked(self.directory / ".lock"):
            return self._reserved_bytes()

    def _change(self, size_bytes: int) -> bool:
        with locked(self.directory / ".lock"):
            if size_bytes > 0 and self._reserved_bytes() + size_bytes > self.budget_bytes:
                remove_abandoned(self.directory)  # pages and reservation of a process that was killed
                if self._reserved_bytes() + size_bytes > self.budget_bytes:
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


def move_to_disk(source: Path, descriptor: int, target: Path) -> int:
    """Copies the open file ``source`` to ``target``, removes it, and returns a descriptor to go on writing there."""
    try:
        output = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        offset, size_bytes = 0, os.fstat(descriptor).st_size
        try:
            while offset < size_bytes:
                offset += os.sendfile(output, descriptor, offset, size_bytes - offset)
        except OSError:
            os.close(output)
            target.unlink(missing_ok=True)
            raise
        os.close(descriptor)
        source.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("spill a staged tar to disk", error) from error
    return output
