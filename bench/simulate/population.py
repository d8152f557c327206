"""Who takes part: each node's link, when it begins, when it is switched off. Drawn from the scenario's seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.simulate.measured import HEADERS
from bench.simulate.scenario import Scenario

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """The nodes of one site.

    Attributes:
        up, down: bytes of images per second, headers taken off.
        starts: seconds.
        dies: seconds; infinite for most.
        is_preheated: has everything before.
        is_straggler: has the stragglers' link.
    """

    up: Floats
    down: Floats
    starts: Floats
    dies: Floats
    is_preheated: NDArray[np.bool_]
    is_straggler: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.up)


def populate(scenario: Scenario, nodes: int, dice: np.random.Generator) -> Population:
    """
    Args:
        nodes: of this site.
    """
    shares = np.array([one.share for one in scenario.classes])
    # Exactly the shares, by chance who: small sites are not to be without a class for bad luck.
    borders = np.round(np.cumsum(shares / shares.sum()) * nodes)
    class_of = dice.permutation(np.searchsorted(borders, np.arange(nodes), side="right"))
    up = np.array([one.up for one in scenario.classes])[class_of]
    down = np.array([one.down for one in scenario.classes])[class_of]
    is_straggler = _some(scenario.stragglers.share, nodes, dice)
    up, down = (np.where(is_straggler, np.minimum(rate, scenario.stragglers.rate), rate) for rate in (up, down))
    starts = dice.uniform(0, scenario.arrival, nodes) if scenario.arrival else np.zeros(nodes)
    dies = np.full(nodes, np.inf)
    if scenario.churn.per_minute:
        rate = -np.log1p(-min(scenario.churn.per_minute, 0.999)) / 60
        dies = starts + dice.exponential(1 / rate, nodes)
    is_preheated = _some(scenario.preheated, nodes, dice)
    return Population(up / HEADERS, down / HEADERS, starts, dies, is_preheated, is_straggler)


def _some(share: float, nodes: int, dice: np.random.Generator) -> NDArray[np.bool_]:
    chosen = np.zeros(nodes, np.bool_)
    chosen[dice.permutation(nodes)[: round(share * nodes)]] = True
    return chosen
