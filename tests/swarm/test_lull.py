"""How long alerts may wait: seldom looked at when they come slowly, at once when it has just begun."""

from __future__ import annotations

import pytest

from imagedist.swarm.lull import LEAST_SECONDS, MOST_SECONDS, Lull


def _settled(alerts_per_second: float) -> float:
    lull, now = Lull(), 0.0
    seconds = lull.after(1, now)
    for _ in range(50):
        now += seconds
        seconds = lull.after(round(alerts_per_second * seconds), now)
    return seconds


def test_a_slow_link_is_looked_at_seldom_and_a_fast_one_often() -> None:
    assert _settled(122) == MOST_SECONDS  # 8 Mbit/s
    assert _settled(15_000) == LEAST_SECONDS  # 1 Gbit/s


def test_it_grows_step_by_step_and_shrinks_at_once() -> None:
    lull = Lull()
    assert lull.after(1, 100.0) == LEAST_SECONDS
    assert lull.after(1, 100.01) == pytest.approx(2 * LEAST_SECONDS)
    assert lull.after(1, 100.03) == pytest.approx(4 * LEAST_SECONDS)
    assert lull.after(5000, 100.07) == LEAST_SECONDS


def test_after_a_silence_it_begins_anew() -> None:
    lull, now = Lull(), 0.0
    for _ in range(20):
        now += lull.after(1, now)
    assert lull.after(1, now) == MOST_SECONDS
    assert lull.after(1, now + 10) == LEAST_SECONDS
