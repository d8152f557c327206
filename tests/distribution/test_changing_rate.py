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


async def test_who_gives_up_waiting_gives_its_bytes_back_to_those_behind_and_to_nobody_before() -> None:
    clock = Clock()
    clock.is_held = True
    rate = ChangingRate(1000, clock=clock, pause=clock.pause)
    first, gives_up, last = (asyncio.create_task(rate.take(1000)) for _ in range(3))
    await asyncio.sleep(0)
    gives_up.cancel()
    await asyncio.gather(gives_up, return_exceptions=True)
    clock.now += 1.05
    rate.set(999)
    await first
    assert not last.done()
    clock.now += 1.0
    rate.set(1000)
    await last
    assert clock.now == pytest.approx(102.05)


async def test_clients_that_come_and_go_do_not_use_up_the_rate() -> None:
    clock = Clock()
    clock.is_held = True
    rate = ChangingRate(1000, clock=clock, pause=clock.pause)
    for _ in range(5):
        going = asyncio.create_task(rate.take(60_000))
        await asyncio.sleep(0)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    clock.is_held = False
    await rate.take(1000)
    assert clock.now < 101.1
