"""One run of the same work however many ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Flights(Generic[Key, Value]):
    """Work by key. An asker that is cancelled leaves it running for the others."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Value]] = {}

    def start(self, key: Key, work: Callable[[], Awaitable[Value]]) -> asyncio.Task[Value]:
        """The running work of that key, begun now if there is none. Await it through ``asyncio.shield``."""
        if key not in self._tasks:
            task = asyncio.create_task(self._run(work))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return self._tasks[key]

    def is_running(self, key: Key) -> bool:
        return key in self._tasks

    async def run(self, key: Key, work: Callable[[], Awaitable[Value]]) -> Value:
        return await asyncio.shield(self.start(key, work))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def _run(work: Callable[[], Awaitable[Value]]) -> Value:
        return await work()

    def _landed(self, key: Key, task: asyncio.Task[Value]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieved: those who asked have it, and there may be none left
