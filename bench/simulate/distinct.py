"""Which of many numbers come for the first time: in a tenth of the time that sorting them takes. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indexes = NDArray[np.int64]


def is_first(numbers: Indexes, room: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Of each number the first one.

    Args:
        room: one place for every number that there may be; what is in it before and after says nothing.
    """
    order = np.arange(len(numbers), dtype=np.int32)
    room[numbers[::-1]] = order[::-1]  # of equal ones the last assignment stays
    return np.equal(room[numbers], order)


def distinct(numbers: Indexes, below: int) -> Indexes:
    """Each once, in order."""
    is_there = np.zeros(below, np.bool_)
    is_there[numbers] = True
    return np.flatnonzero(is_there)
