"""A cap that changes: it holds for those who wait already."""

from __future__ import annotations

import asyncio

import pytest

from imagedist.distribution.changing_rate import ChangingRate


class Clock:
    """Time passes only while somebody waits, and not while ``is_held``."""

    def __init__(self) -> None:
        self.now = 100.0
        self.is_held = False

    def __call__(self) -> float:
        return self.now

    async def pause(self, changed: asyncio.Event, seconds: float) -> None:
        if self.is_held:
            await changed.wait()
        self.now += seconds if not changed.is_set() else 0


async def test_it_gives_its_rate_and_no_more() -> None:
    clock = Clock()
    rate = ChangingRate(1 << 20, clock=clock, pause=clock.pause)
    for _ in range(10):
        await rate.take(1 << 20)
    assert clock.now == pytest.approx(110.0, abs=0.2)


async def test_a_pause_is_worth_a_burst_of_a_tenth_of_a_second() -> None:
    clock = Clock()
    rate = ChangingRate(1 << 20, clock=clock, pause=clock.pause)
    clock.now += 60
    await rate.take(1 << 20)
    assert clock.now == pytest.approx(160.9, abs=0.01)


@pytest.mark.parametrize("change", [None, 1 << 30])
async def test_who_waits_heeds_the_change_at_once(change: int | None) -> None:
    clock = Clock()
    clock.is_held = True
    rate = ChangingRate(1, clock=clock, pause=clock.pause)
    waiting = asyncio.create_task(rate.take(1 << 20))
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.is_held = False
    rate.set(change)
    await waiting
    assert clock.now < 100.1


async def test_a_cap_begins_with_what_is_asked_after_it() -> None:
    clock = Clock()
    rate = ChangingRate(None, clock=clock, pause=clock.pause)
    await rate.take(1 << 30)
    assert clock.now == 100.0
    rate.set(1 << 20)
    await rate.take(1 << 20)
    assert clock.now == pytest.approx(101.0, abs=0.2)
