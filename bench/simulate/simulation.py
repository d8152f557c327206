"""A scenario as a whole: every site's burst, told as one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.simulate.burst import Burst
from bench.simulate.measured import COUNTED_UPSTREAM, HEADERS
from bench.simulate.outcome import Outcome, together
from bench.simulate.population import populate
from bench.simulate.scenario import Scenario
from bench.simulate.upstream import supplies

Ended = Callable[[float, float], None]


def simulate(scenario: Scenario, ended: Ended = lambda seconds, share: None) -> Outcome:
    """The same scenario, the same outcome.

    Args:
        ended: is told the simulated seconds and the share of a site's nodes that are done, now and then.
    """
    shares = [scenario.nodes * (site + 1) // scenario.sites for site in range(scenario.sites)]
    outcomes = []
    for site, supply in enumerate(supplies(scenario)):
        nodes = shares[site] - (shares[site - 1] if site else 0)
        seed = scenario.seed * 1000 + site
        population = populate(scenario, nodes, np.random.default_rng(seed))
        outcomes.append(Burst(scenario, population, supply, seed, ended).run())
    asking = 0 if scenario.state == "warm" else 1 if scenario.inter_site is not None else scenario.sites
    return together(outcomes, asking * scenario.blob_bytes * scenario.layers * COUNTED_UPSTREAM)


def plain_seconds(scenario: Scenario) -> float:
    """A plain download over the idle link of a node of the largest class."""
    largest = max(scenario.classes, key=lambda one: one.share)
    return scenario.size * HEADERS / min(largest.down, scenario.site_egress)
