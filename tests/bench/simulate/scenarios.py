"""Small bursts: tenths of a second each."""

from __future__ import annotations

from typing import Any

from bench.simulate.scenario import Scenario, scenario_of

RATE = 1e6
SIZE = 16_000_000


def small(nodes: int, **values: Any) -> Scenario:
    """An image of 16 MB, links of 1 MB/s, the site's ten times that."""
    defaults = {
        "size": SIZE,
        "classes": [{"up": RATE, "down": RATE}],
        "site_egress": 10 * RATE,
        "upstream": 10 * RATE,
        "steps": 200,
        "neighbours": 8,  # whatever agents ask for by now
    }
    return scenario_of({**defaults, "nodes": nodes, **values}, "test")
