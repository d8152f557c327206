"""A token bucket over bytes: one cap shared by everything that is sent through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol


class Cap(Protocol):
    """A cap on what is sent."""

    @property
    def rate_bytes_per_second(self) -> int | None:
        """None: no cap at the moment."""

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""


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

    @property
    def rate_bytes_per_second(self) -> int:
        return self._rate

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be sent."""
        now = self._clock()
        self._paid_until = max(self._paid_until, now - self._burst_seconds) + size_bytes / self._rate
        if self._paid_until > now:
            try:
                await self._sleep(self._paid_until - now)
            except BaseException:  # who waited has gone, and nothing is sent
                self._paid_until -= size_bytes / self._rate
                raise
