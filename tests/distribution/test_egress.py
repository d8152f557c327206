"""The site host's cap, shared by processes and changed while they send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagedist.distribution.egress import Egress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.on_sleep: Callable[[], None] | None = None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.on_sleep is not None:
            self.on_sleep()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def caps(tmp_path: Path, clock: Clock) -> Iterator[list[Egress]]:
    """Each with a file of its own, as in processes of their own."""
    made = [Egress(tmp_path / "egress", clock=clock, sleep=clock.sleep) for _ in range(3)]
    made[0].set(1000)
    yield made
    for cap in made:
        cap.close()


async def test_all_processes_together_stay_below_the_rate(caps: list[Egress], clock: Clock) -> None:
    for number in range(100):
        await caps[number % 3].take(100)
    assert clock.now == pytest.approx(110.0, abs=0.2)


async def test_one_alone_may_have_all_of_it(caps: list[Egress], clock: Clock) -> None:
    for _ in range(100):
        await caps[0].take(100)
    assert clock.now == pytest.approx(110.0, abs=0.2)


async def test_a_pause_is_worth_a_burst_and_no_more(caps: list[Egress], clock: Clock) -> None:
    await caps[0].take(1000)
    clock.now += 60
    began = clock.now
    for _ in range(10):
        await caps[1].take(100)
    assert clock.now - began == pytest.approx(0.9, abs=0.05)


async def test_who_goes_away_while_waiting_uses_up_nothing(caps: list[Egress], clock: Clock) -> None:
    def go_away() -> None:
        raise asyncio.CancelledError

    await caps[0].take(1000)
    clock.on_sleep = go_away
    for _ in range(100):
        with pytest.raises(asyncio.CancelledError):
            await caps[1].take(1000)
    clock.on_sleep = None
    began = clock.now
    await caps[2].take(1000)
    assert clock.now - began < 2


async def test_without_a_cap_nobody_waits(caps: list[Egress], clock: Clock) -> None:
    caps[1].set(None)
    assert caps[2].rate_bytes_per_second is None
    await caps[0].take(10**9)
    assert clock.now == 100.0


async def test_who_waits_heeds_another_rate_at_once(caps: list[Egress], clock: Clock) -> None:
    def raise_it() -> None:
        clock.on_sleep = None
        caps[2].set(100_000)

    clock.on_sleep = raise_it
    await caps[0].take(100_000)  # 100 seconds' worth
    assert clock.now == pytest.approx(101.3, abs=0.2)


async def test_who_waits_goes_on_when_the_cap_is_lifted(caps: list[Egress], clock: Clock) -> None:
    clock.on_sleep = lambda: caps[2].set(None)
    await caps[0].take(100_000)
    assert clock.now < 101


async def test_the_file_of_another_boot_or_of_a_process_that_died_counts_as_new(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "egress").write_bytes(b"abc")
    cap = Egress(tmp_path / "egress", clock=clock, sleep=clock.sleep)
    assert cap.rate_bytes_per_second is None
    cap.set(1000)
    clock.now = 1e6
    await cap.take(1000)
    cap.close()
    (tmp_path / "egress").write_bytes(bytes(16) + (tmp_path / "egress").read_bytes()[16:])
    clock.now = 50.0
    cap = Egress(tmp_path / "egress", clock=clock, sleep=clock.sleep)
    assert cap.rate_bytes_per_second == 1000
    await cap.take(1000)
    assert clock.now == pytest.approx(51.0, abs=0.2)
    cap.close()


async def test_what_the_configuration_says_counts_when_it_is_news(caps: list[Egress]) -> None:
    caps[0].configure(500)
    assert caps[1].rate_bytes_per_second == 500
    caps[1].set(70)
    caps[2].configure(500)  # a worker that starts again
    assert (caps[0].rate_bytes_per_second, caps[0].configured_bytes_per_second) == (70, 500)
    caps[2].configure(None)
    assert caps[0].rate_bytes_per_second is None
