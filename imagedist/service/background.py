"""Work beside the requests that must not end: what fails is told, counted, and begun anew after a pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from imagedist.metrics import BACKGROUND_FAILURES

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_CALM_SECONDS = 300.0
"""After so long without a failure the next one is a first one again."""


async def kept_up(
    work: Callable[[], Awaitable[None]],
    name: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until the work returns. What it raises is a mistake of ours, or nobody else's to handle: it begins anew.

    Args:
        name: for the log and ``imagedist_background_failures_total``.
        sleep: injected by tests.
    """
    loop = asyncio.get_running_loop()
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        began_at = loop.time()
        try:
            await work()
            return
        except Exception:
            BACKGROUND_FAILURES.labels(work=name).inc()
            if loop.time() - began_at > _CALM_SECONDS:
                pause_seconds = _FIRST_PAUSE_SECONDS
            _LOG.exception("%s failed, and begins anew in %.0f s", name, pause_seconds)
        await sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]], name: str) -> AsyncIterator[None]:
    """``kept_up`` while the context is open."""
    task = asyncio.create_task(kept_up(work, name), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
