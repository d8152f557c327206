"""The rules by which repeated runs become figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.statistics import median, median_interval, pair_ratios, rotated, spread

SECONDS = st.floats(min_value=0.01, max_value=1000)


def test_every_round_starts_with_the_next_contestant() -> None:
    assert [rotated("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert rotated([], 3) == []


def test_everybody_runs_first_equally_often() -> None:
    firsts = [rotated("abcd", number)[0] for number in range(8)]
    assert sorted(firsts) == sorted("abcdabcd")


def test_ratios_are_made_within_a_round_only() -> None:
    ours = {0: 1.0, 1: 2.0, 3: 4.0}
    theirs = {0: 5.0, 1: 8.0, 2: 100.0}
    assert pair_ratios(ours, theirs) == [5.0, 4.0]


def test_a_slow_round_that_hits_both_leaves_the_ratio_alone() -> None:
    ours = {0: 1.0, 1: 10.0, 2: 1.0}
    theirs = {0: 5.0, 1: 50.0, 2: 5.0}
    assert pair_ratios(ours, theirs) == [5.0, 5.0, 5.0]


def test_nothing_has_no_median_and_no_spread() -> None:
    assert median([]) is None
    assert spread([]) == 0.0


def test_spread_is_the_range_by_the_median() -> None:
    assert spread([2.0, 4.0, 3.0]) == pytest.approx(2 / 3)


@settings(max_examples=15, deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=9))
def test_the_interval_encloses_the_median_and_stays_in_the_range(values: list[float]) -> None:
    low, high = median_interval(values)
    middle = median(values)
    assert middle is not None
    assert min(values) <= low <= middle <= high <= max(values)


def test_the_interval_is_the_same_for_the_same_values() -> None:
    values = [1.0, 1.1, 0.9, 1.3, 1.05]
    assert median_interval(values) == median_interval(values)


def test_more_confidence_makes_a_wider_interval() -> None:
    values = [float(number) for number in range(20)]
    low, high = median_interval(values, 0.5)
    wider_low, wider_high = median_interval(values, 0.99)
    assert wider_low < low < high < wider_high


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        median_interval([])
