"""Ways to do the same, one after the other in every round; what they took, and how they compare pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.result import Contestant, Run
from bench.statistics import median, pair_ratios, rotated

Say = Callable[[str], None]
Runs = Mapping[str, Sequence[Run]]
"""By the name of the way; those that have not been gone yet have none."""


def in_turn(
    ways: Mapping[str, Callable[[int], Run]],
    rounds: int,
    say: Say,
    keep: Callable[[Runs], None] = lambda runs: None,
    what: str = "",
) -> Runs:
    """Goes every way once per round, in rotated order.

    Args:
        ways: the number of the round → its run.
        keep: told all there is after each run.
        what: said before the name of the way.

    Raises:
        As the ways do.
    """
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in rotated(list(ways.items()), number):
            say(f"round {number + 1} of {rounds}: {what}{name}")
            runs[name].append(way(number))
            keep(runs)
    return runs


def rows_of(runs: Runs, what: str = "") -> tuple[Contestant, ...]:
    """A row of each way."""
    return tuple(Contestant(name=f"{what}{name}", runs=tuple(each)) for name, each in runs.items())


def ratio(one: Sequence[Run], other: Sequence[Run], value: Callable[[Run], float] = lambda run: run.seconds) -> float:
    """How many times what ``other`` took ``one`` took: the median over rounds, for a noisy one hits both.

    Returns:
        0 without a round that has both.
    """
    theirs, ours = ({run.round: value(run) for run in runs} for runs in (other, one))
    return median(pair_ratios(theirs, ours)) or 0.0
