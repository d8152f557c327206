"""Sync's cap on what comes in: one account for all, changed while bytes flow, left by those whom somebody waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_proxy.pace import Pace


class Clock:
    """Who waits makes time pass; at ``alarm`` something happens."""

    def __init__(self) -> None:
        self.now = 100.0
        self.alarm: tuple[float, Callable[[], object]] | None = None

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.alarm is not None and self.now >= self.alarm[0]:
            alarm, self.alarm = self.alarm, None
            alarm[1]()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Iterator[Pace]:
    pace = Pace(None, clock=clock, wait=clock.wait)
    yield pace
    pace.stop()
    pace.close()


def is_capped() -> bool:
    return True


def test_without_a_cap_nobody_waits(pace: Pace, clock: Clock) -> None:
    pace.take(1 << 30, is_capped)
    assert clock.now == 100


def test_what_comes_is_paid_for_at_the_rate_but_for_a_burst_after_a_pause(pace: Pace, clock: Clock) -> None:
    pace.set(1000)
    pace.take(2000, is_capped)
    assert clock.now == pytest.approx(102)
    clock.now += 60
    pace.take(100, is_capped)
    assert clock.now == pytest.approx(162)
    pace.take(1000, is_capped)
    assert clock.now == pytest.approx(163)


def test_who_waits_goes_on_when_the_cap_does_not_hold_any_more(pace: Pace, clock: Clock) -> None:
    wanted: list[bool] = []
    for change in (
        lambda: pace.set(2000),
        lambda: pace.set(None),
        lambda: wanted.append(True),
        lambda: pace.stop(),
    ):
        wanted.clear()
        pace.set(1000)
        began = clock.now
        clock.alarm = (began + 10, change)
        pace.take(1_000_000, lambda: not wanted)
        assert clock.now - began < 11


def test_processes_that_name_one_directory_pay_into_one_account(tmp_path: Path, clock: Clock) -> None:
    one, other = (Pace(tmp_path, clock=clock, wait=clock.wait) for _ in range(2))
    one.set(1000)
    one.take(1000, is_capped)
    other.take(1000, is_capped)
    assert clock.now == pytest.approx(102)
    for each in (one, other):
        each.close()
