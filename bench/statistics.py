"""What repeated runs say: order, medians, spreads, ratios pair by pair with their confidence interval. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

CONFIDENCE = 0.95
NOISY_SPREAD = 1 / 3
"""Above it the machine was not quiet."""
ALL_RATIOS = 5
"""Of so many values the bootstrap interval of the median is the range."""
_RESAMPLES = 10_000
_SEED = 20_260_101


def rotated(contestants: Sequence[T], round_number: int) -> list[T]:
    """Who runs when: A B C, B C A, C A B, …: whatever changes with time or place hits all alike."""
    first = round_number % len(contestants) if contestants else 0
    return [*contestants[first:], *contestants[:first]]


def median(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float:
    """(slowest - fastest) / median."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of them do not exceed (nearest rank).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no percentile of nothing")
    return sorted(values)[max(1, math.ceil(percent / 100 * len(values))) - 1]


def pair_ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """``theirs / ours`` within each round that both ran: what a noisy round does to one it does to the other.

    Args:
        ours, theirs: round → seconds.
    """
    return [theirs[number] / ours[number] for number in sorted(ours.keys() & theirs.keys()) if ours[number] > 0]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile bootstrap interval of the median; always the same for the same values.

    Up to ``ALL_RATIOS`` values it is their range, which holds the median of all that there could be with a probability
    of 1 - 2^(1 - n): 75 % for three, 94 % for five (Conover, Practical Nonparametric Statistics, on quantiles).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no interval of nothing")
    source = random.Random(_SEED)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = round((1 - confidence) / 2 * _RESAMPLES)
    return medians[tail], medians[-tail - 1]


def ratio_interval(
    before: Sequence[float], after: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The percentile bootstrap interval of median(after) ÷ median(before), both resampled; the same every time.

    Raises:
        ValueError: no values.
    """
    if not before or not after:
        raise ValueError("no interval of nothing")
    source = random.Random(_SEED)
    ratios = sorted(
        statistics.median(source.choices(after, k=len(after)))
        / statistics.median(source.choices(before, k=len(before)))
        for _ in range(_RESAMPLES)
    )
    tail = round((1 - confidence) / 2 * _RESAMPLES)
    return ratios[tail], ratios[-tail - 1]
