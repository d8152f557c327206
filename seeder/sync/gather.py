"""Many questions at a time, of which one that fails fails all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. When one raises, the others are cancelled, and it is what is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except* Exception as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
