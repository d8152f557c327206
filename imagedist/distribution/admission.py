"""How many requests run at once: past the limit they queue, past the queue they are refused (design.md §4.1)."""

from __future__ import annotations

import asyncio
import random

from imagedist.errors import OverloadedError
from imagedist.metrics import IN_FLIGHT, QUEUED, REFUSED

MAX_WAIT_SECONDS = 20.0
"""Below the 30 s after which clients commonly give up a request without an answer."""


class Admission:
    """Lets ``max_requests`` in at a time: a context, for each of them.

    Downloads and short answers have one each, so that neither locks the other out.

    Args:
        max_queued: how many may wait; four times the limit if not given.
        max_wait_seconds: how long one waits, give or take a quarter: those refused come back spread out.
        lane: its name in metrics.
    """

    def __init__(
        self,
        max_requests: int,
        max_queued: int | None = None,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        *,
        lane: str = "answers",
    ) -> None:
        self._slots = asyncio.Semaphore(max_requests)
        self._max_queued = 4 * max_requests if max_queued is None else max_queued
        self._max_wait_seconds = max_wait_seconds
        self._queued = 0
        self._in_flight = IN_FLIGHT.labels(lane=lane)
        self._waiting = QUEUED.labels(lane=lane)
        self._full = REFUSED.labels(lane=lane, cause="queue full")
        self._late = REFUSED.labels(lane=lane, cause="waited too long")

    async def __aenter__(self) -> None:
        """
        Raises:
            OverloadedError: the queue is full, or the wait was too long.
        """
        if self._slots.locked():
            await self._wait()
        else:
            await self._slots.acquire()
        self._in_flight.inc()

    async def __aexit__(self, *exception: object) -> None:
        self._in_flight.dec()
        self._slots.release()

    async def _wait(self) -> None:
        if self._queued >= self._max_queued:
            self._full.inc()
            raise OverloadedError("too many requests at once: try again, or elsewhere")
        self._queued += 1
        self._waiting.inc()
        try:
            async with asyncio.timeout(self._max_wait_seconds * random.uniform(0.75, 1.25)):
                await self._slots.acquire()
        except TimeoutError as error:
            self._late.inc()
            raise OverloadedError("too many requests for too long: try again, or elsewhere") from error
        finally:
            self._queued -= 1
            self._waiting.dec()
