"""How fast bytes come in for sync: one cap for all processes of a host, set anew with every order. Blocking."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from imagedist.errors import storage_error

_ACCOUNT = struct.Struct("<dd")
_BURST_SECONDS = 0.1
_LOOK_SECONDS = 0.2
"""How soon who waits sees that the cap has changed, or that somebody wants the blob now."""


class Pace:
    """An account in a small file: until which moment all that came is paid for, at which rate.

    Args:
        directory: in memory, shared by the workers; None: this process has it alone.
        clock, wait: seconds. Injected by tests.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._clock = clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        try:
            if directory is None:
                self._descriptor = os.memfd_create("sync-pace", os.MFD_CLOEXEC)
            else:
                self._descriptor = os.open(directory / "sync-pace", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error("make the account of sync's bandwidth", error) from error
        self._lock = threading.Lock()

    def set(self, bytes_per_second: int | None) -> None:
        """None: no cap; who waits goes on."""
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                paid_until, rate = self._read()
                if rate != float(bytes_per_second or 0):
                    self._write(min(paid_until, self._clock()), float(bytes_per_second or 0))
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def take(self, size_bytes: int, is_capped: Callable[[], bool]) -> None:
        """Returns when these bytes are paid for, or the cap does not hold for them any more. In a thread."""
        moment, rate = self._pay(size_bytes)
        while is_capped() and rate and not self._stopped.is_set():
            left_seconds = moment - self._clock()
            if left_seconds <= 0 or self._rate() != rate:
                return
            self._wait(min(left_seconds, _LOOK_SECONDS))

    def stop(self) -> None:
        """Whoever waits goes on: the process ends."""
        self._stopped.set()

    def close(self) -> None:
        os.close(self._descriptor)

    def _pay(self, size_bytes: int) -> tuple[float, float]:
        with self._lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # held for microseconds
            try:
                paid_until, rate = self._read()
                if rate:
                    paid_until = max(paid_until, self._clock() - _BURST_SECONDS) + size_bytes / rate
                    self._write(paid_until, rate)
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return paid_until, rate

    def _rate(self) -> float:
        return self._read()[1]

    def _read(self) -> tuple[float, float]:
        kept = os.pread(self._descriptor, _ACCOUNT.size, 0)
        return _ACCOUNT.unpack(kept) if len(kept) == _ACCOUNT.size else (self._clock(), 0.0)

    def _write(self, paid_until: float, rate: float) -> None:
        os.pwrite(self._descriptor, _ACCOUNT.pack(paid_until, rate), 0)
