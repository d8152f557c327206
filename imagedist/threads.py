"""Waiting from the event loop for work in threads and processes, so that cancelling never leaves it running behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T]) -> T:
    """Awaits work that cannot be interrupted. When cancelled, waits for its end first, then lets go.

    Whoever cleans up after a cancelled task may rely on it: no thread still writes to what is being removed.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # retrieved: the cancellation is what the caller sees
        raise


@asynccontextmanager
async def in_thread(context: AbstractContextManager[T], stop: threading.Event) -> AsyncIterator[T]:
    """Enters and leaves a blocking context manager in threads; locks are the usual reason.

    Args:
        stop: makes a blocked entry give up; set when the task is cancelled meanwhile.
    """
    value = await _entered(context, stop)
    try:
        yield value
    except BaseException as error:
        if not await settled(asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__)):
            raise
    else:
        await settled(asyncio.to_thread(context.__exit__, None, None, None))


async def _entered(context: AbstractContextManager[T], stop: threading.Event) -> T:
    entering = asyncio.ensure_future(asyncio.to_thread(context.__enter__))
    try:
        return await asyncio.shield(entering)
    except asyncio.CancelledError as cancelled:
        stop.set()
        await asyncio.wait([entering])
        if not entering.cancelled() and entering.exception() is None:
            await asyncio.to_thread(context.__exit__, type(cancelled), cancelled, None)
        raise


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of an exception group: one cause is what a user can read."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
