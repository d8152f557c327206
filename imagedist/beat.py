"""One beat for all that a process looks at again and again: it wakes once for everything, not once for each.

What a wake-up costs is mostly memory that others used meanwhile: 0.3 ms of a busy machine's CPU, however little is to
do. An agent in a swarm had eight such loops.
"""

from __future__ import annotations

import asyncio

_LATE_SECONDS = 0.001
"""A timer may fire a clock tick early; that beat is this one."""


async def next_beat(every_seconds: float) -> None:
    """Sleeps until the event loop's clock is a multiple of that: at most so long, and as everybody else who waits."""
    await asyncio.sleep(seconds_to_beat(asyncio.get_running_loop().time(), every_seconds))


def seconds_to_beat(now: float, every_seconds: float) -> float:
    left = every_seconds - now % every_seconds
    return left if left > _LATE_SECONDS else left + every_seconds
