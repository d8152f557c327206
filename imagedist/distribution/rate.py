"""A token bucket over bytes: one cap shared by everything that is sent through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """Caps the bytes per second of all its users together, in the order in which they asked.

    It schedules instead of counting tokens: each asker is given the moment at which its bytes are paid for.
    Ask in steps of some 100 KiB, so that users share the rate evenly.

    Args:
        rate_bytes_per_second: above zero.
        burst_bytes: what may go at once after a pause; a tenth of a second's worth if not given.
        clock, sleep: injected by tests.
    """

    def __init__(
        self,
        rate_bytes_per_second: int,
        burst_bytes: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rate = rate_bytes_per_second
        self._burst_seconds = 0.1 if burst_bytes is None else burst_bytes / rate_bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._paid_until = clock()

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""
        now = self._clock()
        moment = self.pay(size_bytes, now)
        if moment > now:
            await self._sleep(moment - now)

    def pay(self, size_bytes: int, now: float) -> float:
        """Puts ``size_bytes`` on the account. Returns the moment from which on they may be sent."""
        self._paid_until = max(self._paid_until, now - self._burst_seconds) + size_bytes / self._rate
        return self._paid_until

    def close(self) -> None:
        """Nothing to do, but for one that is shared."""
