"""Cancelling never leaves a thread at work on what is being cleaned up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imagedist.errors import SourceError
from imagedist.threads import first_error, in_thread, settled


async def cancel_twice(task: asyncio.Task[None]) -> None:
    for _ in range(2):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_cancelled_wait_ends_only_after_its_thread_however_often_it_is_cancelled() -> None:
    begun, may_end, done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()
        done.append(True)

    async def wait() -> None:
        await settled(asyncio.to_thread(work))

    task = asyncio.create_task(wait())
    await begun.wait()
    await cancel_twice(task)
    is_over_too_soon = task.done()
    may_end.set()
    assert not is_over_too_soon
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_what_was_made_for_a_cancelled_caller_is_undone() -> None:
    begun, may_end, undone = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()
        return "an open file"

    async def wait() -> None:
        await settled(asyncio.to_thread(work), undone.append)

    task = asyncio.create_task(wait())
    await begun.wait()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["an open file"]


async def test_the_failure_of_the_work_is_the_callers() -> None:
    def work() -> None:
        raise SourceError("no")

    with pytest.raises(SourceError, match="no"):
        await settled(asyncio.to_thread(work))


class Recorded:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.entering = asyncio.Event()
        self.may_enter = threading.Event()
        self.stop = threading.Event()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def context(self) -> Iterator[str]:
        self._loop.call_soon_threadsafe(self.entering.set)
        self.may_enter.wait()
        self.events.append("entered")
        try:
            yield "value"
        except BaseException as error:
            self.events.append(type(error).__name__)
            raise
        finally:
            self.events.append("left")


async def test_a_context_is_entered_and_left_in_a_thread_and_sees_the_error() -> None:
    recorded = Recorded()
    recorded.may_enter.set()

    async def use() -> None:
        async with in_thread(recorded.context(), recorded.stop) as value:
            raise SourceError(value)

    with pytest.raises(SourceError, match="value"):
        await use()
    assert recorded.events == ["entered", "SourceError", "left"]


async def test_a_context_entered_while_its_task_was_cancelled_is_left_again() -> None:
    recorded = Recorded()

    async def use() -> None:
        async with in_thread(recorded.context(), recorded.stop):
            raise AssertionError("must not be reached")

    task = asyncio.create_task(use())
    await recorded.entering.wait()
    await cancel_twice(task)
    is_over_too_soon = task.done()
    recorded.may_enter.set()
    assert recorded.stop.is_set()
    assert not is_over_too_soon
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.events == ["entered", "CancelledError", "left"]


def test_the_first_leaf_of_nested_groups_is_the_one_that_is_told() -> None:
    first = SourceError("first")
    group = BaseExceptionGroup("", [ExceptionGroup("", [first, ValueError()]), KeyError()])
    assert first_error(group) is first
