"""Waiting for what nobody tells: conditions, never durations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(is_so: Callable[[], bool]) -> None:
    """Returns when it is so.

    Raises:
        TimeoutError: after a minute.
    """
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - nobody has an event for it
            await asyncio.sleep(0.05)
