"""A token bucket, whose users may give up."""

from __future__ import annotations

import asyncio

import pytest

from imagedist.distribution.rate import TokenBucket


async def test_who_gives_up_waiting_has_used_nothing_of_the_rate() -> None:
    gate = asyncio.Event()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await gate.wait()

    bucket = TokenBucket(1000, 0, clock=lambda: 100.0, sleep=sleep)
    going = asyncio.create_task(bucket.take(5000))
    await asyncio.sleep(0)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    gate.set()
    await bucket.take(1000)
    assert slept == [pytest.approx(5.0), pytest.approx(1.0)]
