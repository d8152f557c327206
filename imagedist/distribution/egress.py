"""The cap on what a site's host sends: one account in a mapped file for all its processes, changed at any time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from imagedist.errors import storage_error

EGRESS_FILE = ".egress"
"""In the site's blob store, which proxy and seeder share."""
_ACCOUNT = struct.Struct("<16sddd")
"""The boot in which it counts, the moment until which all is paid for, the rate, the configured one (0: no cap)."""
_BURST_SECONDS = 0.1
_LOOK_SECONDS = 0.25
"""How soon who waits heeds another rate."""
_STEP_BYTES = 256 << 10


class Egress:
    """Caps the bytes per second of all who name the same file together, in the order in which they ask.

    Each asker is given the moment at which its bytes are paid for. Without a cap a step costs one read of memory; with
    one, two locks of the file, some 5 µs.

    Args:
        path: made if it is not there; on the host's own disk or in memory: a mapped file is shared on one host only.
        clock: the same in all processes.
        sleep: injected by tests.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._descriptor).st_size < _ACCOUNT.size:
                os.ftruncate(self._descriptor, _ACCOUNT.size)
            self._account = mmap.mmap(self._descriptor, _ACCOUNT.size)
        except OSError as error:
            raise storage_error(f"make {path}", error) from error
        self._boot = _boot()

    @property
    def rate_bytes_per_second(self) -> int | None:
        """None: no cap."""
        return round(self._read()[2]) or None

    @property
    def configured_bytes_per_second(self) -> int | None:
        """What the proxy's file says."""
        return round(self._read()[3]) or None

    def configure(self, rate_bytes_per_second: int | None) -> None:
        """What the configuration says now. Every worker says it at its start, so it counts only when it is news."""
        configured = float(rate_bytes_per_second or 0)
        with self._locked():
            if self._read()[3] != configured:
                self._write(self._clock(), configured, configured)

    def set(self, rate_bytes_per_second: int | None) -> None:
        """The cap for all processes and what is under way, until it is set anew or the configuration is another."""
        with self._locked():
            self._write(self._clock(), float(rate_bytes_per_second or 0), self._read()[3])

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""
        while size_bytes > 0 and self.rate_bytes_per_second is not None:
            await self._take(min(size_bytes, _STEP_BYTES))
            size_bytes -= _STEP_BYTES

    async def _take(self, size_bytes: int) -> None:
        moment, rate = self._pay(size_bytes)
        try:
            while rate and (left_seconds := moment - self._clock()) > 0:
                await self._sleep(min(left_seconds, _LOOK_SECONDS))
                if self._read()[2] != rate:
                    moment, rate = self._pay(size_bytes)
        except BaseException:
            self._give_back(size_bytes, rate)
            raise

    def _pay(self, size_bytes: int) -> tuple[float, float]:
        """Puts the bytes on the account. Returns the moment from which on they may be sent, and the rate; 0: no cap."""
        now = self._clock()
        with self._locked():
            boot, paid_until, rate, configured = self._read()
            if not rate:
                return now, 0.0
            if boot != self._boot:
                paid_until = now  # of another boot's clock
            paid_until = max(paid_until, now - _BURST_SECONDS) + size_bytes / rate
            self._write(paid_until, rate, configured)
            return paid_until, rate

    def _give_back(self, size_bytes: int, rate: float) -> None:
        """Who waited has gone, and nothing is sent: else clients that come and go would use up the cap for nothing."""
        with self._locked():
            boot, paid_until, now_rate, configured = self._read()
            if boot == self._boot and rate and now_rate == rate:
                self._write(paid_until - size_bytes / rate, rate, configured)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """For microseconds: nobody waits inside."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _read(self) -> tuple[bytes, float, float, float]:
        boot, paid_until, rate, configured = _ACCOUNT.unpack_from(self._account)
        return boot, paid_until, rate, configured

    def _write(self, paid_until: float, rate: float, configured: float) -> None:
        _ACCOUNT.pack_into(self._account, 0, self._boot, paid_until, rate, configured)

    def close(self) -> None:
        self._account.close()
        os.close(self._descriptor)


def _boot() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().replace(b"-", b"")[:16].ljust(16)
    except OSError:
        return bytes(16)
