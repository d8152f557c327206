"""Numbers that come more than once, told apart without sorting them."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulate.distinct import distinct, is_first


@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_each_number_is_the_one_that_sorting_would_find(seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 50, 400)
    room = np.random.default_rng(seed).integers(-9, 900, 50).astype(np.int32)  # whatever was left in it
    values, first = np.unique(numbers, return_index=True)
    assert np.flatnonzero(is_first(numbers, room)).tolist() == sorted(first.tolist())
    assert distinct(numbers, 50).tolist() == values.tolist()


def test_of_nothing_there_is_no_first() -> None:
    none = np.empty(0, np.int64)
    assert is_first(none, np.zeros(3, np.int32)).tolist() == []
    assert distinct(none, 3).tolist() == []
