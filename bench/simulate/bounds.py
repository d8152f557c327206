"""What no way of distributing can beat, and what one without peers takes. Closed forms, in payload. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.simulate.measured import HEADERS
from bench.simulate.scenario import Scenario


def fluid_seconds(size_bytes: float, source: float, up: Sequence[float], down: Sequence[float]) -> float:
    """Until everybody has a file, however it is cut (Kumar and Ross 2006, theorem 1): max(F ÷ u_s, F ÷ d_min,
    N·F ÷ (u_s + Σu_i)).

    Args:
        source, up, down: bytes per second, of the one who has it and of those who want it.
    """
    return max(size_bytes / source, size_bytes / min(down), len(down) * size_bytes / (source + sum(up)))


def straight_seconds(scenario: Scenario, nodes: int) -> float:
    """Until the last of so many nodes has the image straight from the registry, whose line they share."""
    slowest = min(one.down for one in scenario.classes)
    if round(scenario.stragglers.share * nodes):
        slowest = min(slowest, scenario.stragglers.rate)
    return scenario.size * HEADERS * max(1 / slowest, nodes / scenario.upstream)
