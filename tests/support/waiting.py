"""Waiting for what nobody tells: conditions, never durations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_SECONDS = 60.0


async def until(is_so: Callable[[], bool | Awaitable[bool]], what: str = "", seconds: float = _SECONDS) -> None:
    """Returns when it is so.

    Args:
        what: for the message.

    Raises:
        TimeoutError: not within the time.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = is_so()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"never came true: {what or is_so}") from None


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """The same where there is no event loop."""
    deadline = time.monotonic() + _SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"never came true: {what}")
        time.sleep(0.05)
