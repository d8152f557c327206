"""Waiting from the event loop for work in threads and processes, so that cancelling never leaves it running behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T], undo: Callable[[T], object] | None = None) -> T:
    """Awaits work that cannot be interrupted. When cancelled, waits for its end first, then lets go.

    Whoever cleans up after a cancelled task may rely on it: no thread still writes to what is being removed.

    Args:
        undo: is given what the work made when the caller, cancelled meanwhile, cannot take it: closes a file.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):  # a second Ctrl-C does not end the work either
                await asyncio.wait([future])
        # An error of the work is retrieved: the cancellation is what the caller sees.
        if not future.cancelled() and future.exception() is None and undo is not None:
            undo(future.result())
        raise


async def stoppable(threads: Executor, work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Runs long work in a thread of ``threads``. When cancelled, has it stopped, and waits for its end.

    Args:
        stop: makes ``work``, under way in its thread, end soon.

    Raises:
        Whatever ``work`` raises.
    """
    future = threads.submit(work)
    working = asyncio.wrap_future(future)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        future.cancel()  # if it still waits for a thread
        stop()
        with suppress(Exception):  # that it was stopped is no news
            await settled(working)
        raise


@asynccontextmanager
async def in_thread(context: AbstractContextManager[T], stop: threading.Event) -> AsyncIterator[T]:
    """Enters and leaves a blocking context manager in a thread; locks are the usual reason.

    The thread is its own: many waiters in the shared pool would leave no thread to whom they wait for.

    Args:
        stop: makes a blocked entry give up; set when the task is cancelled meanwhile.
    """
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="context")
    try:
        entering = loop.run_in_executor(thread, context.__enter__)
        try:
            value = await asyncio.shield(entering)
        except asyncio.CancelledError as cancelled:
            stop.set()
            while not entering.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([entering])
            if not entering.cancelled() and entering.exception() is None:
                await settled(loop.run_in_executor(thread, context.__exit__, type(cancelled), cancelled, None))
            raise
        try:
            yield value
        except BaseException as error:
            leaving = loop.run_in_executor(thread, context.__exit__, type(error), error, error.__traceback__)
            if not await settled(leaving):
                raise
        else:
            await settled(loop.run_in_executor(thread, context.__exit__, None, None, None))
    finally:
        thread.shutdown(wait=False)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of an exception group: one cause is what a user can read."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
