"""How few seeders let a burst end within a target time, or which bound forbids it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.result import Contestant, Verdict
from bench.simulate.measured import HEADERS
from bench.simulate.outcome import Outcome
from bench.simulate.population import populate
from bench.simulate.rows import nodes_of
from bench.simulate.scenario import MOST_SEEDERS, Scenario
from bench.simulate.upstream import supplies

_PERCENT = 99.0
_HELPS = 0.98
"""Twice the seeders and not even so much quicker: more will not do it either."""


@dataclass(frozen=True)
class Bound:
    """``seconds``: no sooner has every node but the slowest hundredth the image, for want of ``what``."""

    what: str
    seconds: float


@dataclass(frozen=True)
class Found:
    """
    Attributes:
        bound: the narrowest one, with these seeders.
        seeders: the fewest that reach the target; the most that were tried where none do.
        outcome: with them. None: the bound alone forbids it.
    """

    scenario: Scenario
    target_seconds: float
    bound: Bound
    seeders: int
    outcome: Outcome | None

    @property
    def is_reached(self) -> bool:
        return self.outcome is not None and self.outcome.percentile(_PERCENT) <= self.target_seconds


def with_seeders(scenario: Scenario, seeders: int) -> Scenario:
    """So many in each site, each of which seeds every blob: one that seeds other blobs is of no help."""
    return scenario.model_copy(update={"seeders": seeders, "replicas": max(seeders, scenario.replicas)})


def bounds_of(scenario: Scenario, seeders: int) -> tuple[Bound, ...]:
    """Closed forms: the fluid bound (``bounds.fluid_seconds``) for 99 of 100 nodes of a site, and the registry's line.

    A node's time counts from its own start: what bounds all of them together bounds the last to begin that much less.
    """
    nodes = -(-scenario.nodes // scenario.sites)
    population = populate(scenario, nodes, np.random.default_rng(scenario.seed * 1000))
    down = np.sort(population.down[~population.is_preheated])[::-1]
    served = math.ceil(len(down) * _PERCENT / 100)
    everybody = seeders * scenario.site_egress / HEADERS + float(population.up.sum())
    in_site = max(supply.ends_at for supply in supplies(scenario))
    return (
        Bound("a node's own link", scenario.size / float(down[served - 1])),
        Bound("a seeder's link", scenario.size * HEADERS / (seeders * scenario.site_egress)),
        Bound("the line from the registry or the first site", max(0.0, in_site - scenario.arrival)),
        Bound(
            "what nodes and seeders upload together", max(0.0, served * scenario.size / everybody - scenario.arrival)
        ),
    )


def find(scenario: Scenario, target_seconds: float, simulated: Callable[[Scenario], Outcome]) -> Found:
    """Begins with as many seeders as the bounds allow, doubles them while that helps, then halves the interval.

    Args:
        simulated: runs one scenario.
    """

    def narrowest(seeders: int) -> Bound:
        return max(bounds_of(scenario, seeders), key=lambda bound: bound.seconds)

    def found(seeders: int, outcome: Outcome | None) -> Found:
        return Found(scenario, target_seconds, narrowest(seeders), seeders, outcome)

    if narrowest(MOST_SEEDERS).seconds > target_seconds:
        return found(MOST_SEEDERS, None)
    fewest = next(count for count in range(1, MOST_SEEDERS + 1) if narrowest(count).seconds <= target_seconds)
    too_few, count, before = fewest - 1, fewest, math.inf
    while (outcome := simulated(with_seeders(scenario, count))).percentile(_PERCENT) > target_seconds:
        seconds = outcome.percentile(_PERCENT)
        if count == MOST_SEEDERS or seconds > _HELPS * before:
            return found(count, outcome)
        too_few, count, before = count, min(2 * count, MOST_SEEDERS), seconds
    while count - too_few > 1:
        middle = (too_few + count) // 2
        tried = simulated(with_seeders(scenario, middle))
        if tried.percentile(_PERCENT) <= target_seconds:
            count, outcome = middle, tried
        else:
            too_few = middle
    return found(count, outcome)


def row_of(found: Found) -> Contestant:
    """In a table of its own: how many seeders it takes, how wide their links are together, what they really sent."""
    summary = {"bound s": found.bound.seconds}
    if found.outcome is not None:
        seconds = found.outcome.percentile(_PERCENT)
        rate = found.outcome.site_bytes / found.scenario.sites / max(seconds, 1e-9)
        summary |= {
            "seeders": float(found.seeders),
            "p99 s": seconds,
            "their links Mbit/s": found.seeders * found.scenario.site_egress * 8 / 1e6,
            "sent Mbit/s": rate * 8 / 1e6,
        }
        summary = {title: value for title, value in summary.items() if math.isfinite(value)}
    return Contestant(name=nodes_of(found.scenario.nodes), summary=summary)


def verdict_of(found: Found) -> Verdict:
    """Reached, by so many seeders; or not, and why."""
    nodes, aim = nodes_of(found.scenario.nodes), f"at most {found.target_seconds:g}"
    if found.outcome is None:
        what = f"{nodes}, however many seeders: {found.bound.what} alone takes"
        return Verdict(what=what, value=found.bound.seconds, unit="s", aim=aim)
    seconds = found.outcome.percentile(_PERCENT)
    if not math.isfinite(seconds):
        what = f"{nodes} with {found.seeders} seeders, and more do not help: so many never had it"
        return Verdict(what=what, value=float(found.outcome.unfinished), unit="nodes", aim="at most 0")
    more = "" if found.is_reached else f", and more do not help ({found.bound.what} takes {found.bound.seconds:.1f} s)"
    count = "1 seeder" if found.seeders == 1 else f"{found.seeders} seeders"
    return Verdict(what=f"{nodes}: p99 with {count}{more}", value=seconds, unit="s", aim=aim)
