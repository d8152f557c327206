"""Loops that look again and again wake together."""

from __future__ import annotations

import pytest

from imagedist.beat import seconds_to_beat


@pytest.mark.parametrize(
    ("now", "every", "left"), [(10.1, 0.5, 0.4), (10.5, 0.5, 0.5), (0.0, 1.0, 1.0), (7.25, 1.0, 0.75)]
)
def test_a_beat_is_a_multiple_of_its_length(now: float, every: float, left: float) -> None:
    assert seconds_to_beat(now, every) == pytest.approx(left)


def test_a_timer_that_fired_a_moment_early_does_not_beat_twice() -> None:
    assert seconds_to_beat(10.4995, 0.5) == pytest.approx(0.5005)
