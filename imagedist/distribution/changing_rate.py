"""A cap on bytes per second that may change at any time, for those who already wait, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

_BURST_SECONDS = 0.1
_STEP_BYTES = 64 << 10
"""Taken at a time, so that users share the rate evenly."""

Pause = Callable[[asyncio.Event, float], Awaitable[None]]


async def _pause(changed: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()


class _Turn:
    """Somebody who waits: up to which number bytes must be allowed until it goes on."""

    def __init__(self, number: float) -> None:
        self.number = number


class ChangingRate:
    """Caps the bytes per second of all its users together, in the order in which they asked.

    Bytes are numbered as they are asked for; the rate says up to which number they may go by now.

    Args:
        rate_bytes_per_second: above zero; None: no cap.
        clock: seconds. pause: waits for the event, and so many seconds at most. Both injected by tests.
    """

    def __init__(
        self,
        rate_bytes_per_second: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Pause = _pause,
    ) -> None:
        self._rate = rate_bytes_per_second
        self._clock = clock
        self._pause = pause
        self._asked_bytes = 0.0
        self._allowed_bytes = 0.0
        self._as_of = clock()
        self._turns: dict[_Turn, None] = {}
        self._changed = asyncio.Event()

    @property
    def rate_bytes_per_second(self) -> int | None:
        return self._rate

    def set(self, rate_bytes_per_second: int | None) -> None:
        """The cap from now on. None: no cap; whoever waits goes on at once."""
        if rate_bytes_per_second == self._rate:
            return
        self._advance()
        self._rate = rate_bytes_per_second
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def take(self, size_bytes: int) -> None:
        """Returns when ``size_bytes`` may be passed on."""
        while size_bytes > 0:
            step_bytes = min(size_bytes, _STEP_BYTES)
            size_bytes -= step_bytes
            await self._take(step_bytes)

    async def _take(self, size_bytes: int) -> None:
        self._advance()  # before: a pause of the askers is worth a burst, no more
        self._asked_bytes += size_bytes
        turn = _Turn(self._asked_bytes)
        self._turns[turn] = None
        try:
            while self._rate is not None:
                self._advance()
                if self._allowed_bytes >= turn.number:
                    return
                await self._pause(self._changed, (turn.number - self._allowed_bytes) / self._rate)
        except BaseException:
            self._give_back(turn, size_bytes)
            raise
        finally:
            del self._turns[turn]

    def _give_back(self, gone: _Turn, size_bytes: int) -> None:
        """Who waited has gone, and passes nothing on: those behind it move up."""
        self._asked_bytes -= size_bytes
        for turn in self._turns:
            if turn.number > gone.number:
                turn.number -= size_bytes
        self._wake()

    def _advance(self) -> None:
        now = self._clock()
        if self._rate is None:
            self._allowed_bytes = self._asked_bytes
        else:
            earned_bytes = (now - self._as_of) * self._rate
            burst_bytes = self._rate * _BURST_SECONDS
            self._allowed_bytes = min(self._allowed_bytes + earned_bytes, self._asked_bytes + burst_bytes)
        self._as_of = now
