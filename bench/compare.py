"""What became faster or slower from one result to another, beyond noise: the rule, and what it says of each row. Pure.

A row changed when three things hold together: the ratio of the medians is beyond ``1 + threshold`` or its inverse; on
the same side, the whole 95 % bootstrap interval of that ratio (resampled runs of both, ``statistics.ratio_interval``)
does not reach 1;
and each side has three runs at least. One run alone says nothing about noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench import statistics
from bench.result import Contestant, Result
from imagedist.errors import InputError

THRESHOLD = 0.10
"""Smaller changes are not told: another order of files on a disk makes as much."""
LEAST_RUNS = 3

Judgement = Literal["faster", "slower", "same", "unknown", "gone", "new"]


@dataclass(frozen=True, slots=True)
class Change:
    """One row.

    Attributes:
        ratio: medians, after ÷ before. low, high: its 95 % interval.
        why: of ``unknown`` and ``gone``.
    """

    benchmark: str
    row: str
    judgement: Judgement
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


def differences(old: Result, new: Result) -> list[str]:
    """What makes figures of two results no comparison: machine, images, settings, benchmarks; in words."""
    found = []
    if old.machine != new.machine:
        parts = [name for name in type(old.machine).model_fields if getattr(old.machine, name) != _of(new, name)]
        found.append(f"the machine ({', '.join(parts)})")
    pairs = list(_pairs(old, new))
    if not pairs:
        found.append(f"the benchmark ({old.benchmark}, {new.benchmark})")
    for one, other in pairs:
        if one.image != other.image:
            found.append(f"the image of {one.benchmark}")
        settings = {
            name
            for name in one.settings.keys() | other.settings.keys()
            if name not in ("load_at_start", "rounds", "first_failure", "answered")
            and one.settings.get(name) != other.settings.get(name)
        }
        if settings:
            found.append(f"settings of {one.benchmark} ({', '.join(sorted(settings))})")
    return found


def compare(old: Result, new: Result, threshold: float = THRESHOLD) -> list[Change]:
    """Row by row, of every benchmark that both have; rows of one that is not there any more are gone.

    Raises:
        InputError: they have no benchmark in common.
    """
    pairs = list(_pairs(old, new))
    if not pairs:
        raise InputError(f"nothing to compare: one measured {old.benchmark}, the other {new.benchmark}")
    changes = []
    for one, other in pairs:
        names = dict.fromkeys([row.name for row in (*one.contestants, *other.contestants)])
        changes += [
            _change(other.benchmark, name, one.contestant(name), other.contestant(name), threshold) for name in names
        ]
    measured = {other.benchmark for _, other in pairs}
    for part in old.benchmarks:
        if part.benchmark not in measured:
            changes += [_change(part.benchmark, row.name, row, None, threshold) for row in part.contestants if row.runs]
    return changes


def _change(benchmark: str, name: str, old: Contestant | None, new: Contestant | None, threshold: float) -> Change:
    before, after = (row.median_seconds if row else None for row in (old, new))
    if old is None or before is None:
        return Change(benchmark, name, "new" if after is not None else "unknown", after=after, why="has no runs before")
    if new is None or after is None:
        why = (new.not_run if new else None) or "has no runs any more"
        return Change(benchmark, name, "gone", before=before, why=why)
    if min(*old.seconds, *new.seconds) == 0:
        return Change(benchmark, name, "unknown", before, after, why="a run of no time at all is no measure")
    ratio = after / before
    low, high = statistics.ratio_interval(old.seconds, new.seconds)
    judgement: Judgement = "same"
    why = ""
    if ratio > 1 + threshold and low > 1:
        judgement = "slower"
    elif ratio < 1 / (1 + threshold) and high < 1:
        judgement = "faster"
    if (fewest := min(len(old.runs), len(new.runs))) < LEAST_RUNS:
        judgement, why = "unknown", f"{fewest} run{'s' if fewest > 1 else ''}: {LEAST_RUNS} at least say what is noise"
    return Change(benchmark, name, judgement, before, after, ratio, low, high, why)


def _pairs(old: Result, new: Result) -> Iterator[tuple[Result, Result]]:
    by_name = {part.benchmark: part for part in old.benchmarks}
    for part in new.benchmarks:
        if part.benchmark in by_name:
            yield by_name[part.benchmark], part


def _of(result: Result, name: str) -> object:
    return getattr(result.machine, name)
