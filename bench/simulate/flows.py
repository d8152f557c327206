"""How links are shared by what flows over them: nearly max-min fair, as TCP is among neighbours on a LAN. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]

_ROUNDS = 4
"""Of filling: after each, what a saturated end leaves is shared by the others. Random graphs of degree 16 have less
than 2 % of max-min fairness left after four."""
_SATURATED = 0.005


def fair_rates(
    sender: Indexes,
    receiver: Indexes,
    up: Floats,
    down: Floats,
    most: Floats | None = None,
    weight: Floats | None = None,
) -> Floats:
    """Bytes per second of each flow; no end's sum ever exceeds what it has.

    Args:
        sender, receiver: of each flow, indexes into ``up`` and ``down``.
        up, down: bytes per second of each end's link.
        most: what a flow can use itself.
        weight: so many shares of a link are a flow's; None: all have one.
    """
    rates = np.zeros(len(sender))
    up_left, down_left = up.astype(np.float64), down.astype(np.float64)
    is_open = np.arange(len(sender))
    for _ in range(_ROUNDS):
        senders, receivers = sender[is_open], receiver[is_open]
        weights = None if weight is None else weight[is_open]
        of_sender = up_left / np.maximum(np.bincount(senders, weights, len(up)), 1)
        of_receiver = down_left / np.maximum(np.bincount(receivers, weights, len(down)), 1)
        shares = np.minimum(of_sender[senders], of_receiver[receivers])
        if weights is not None:
            shares *= weights
        if most is not None:
            shares = np.minimum(shares, most[is_open] - rates[is_open])
        rates[is_open] += shares
        up_left = np.maximum(up_left - np.bincount(senders, shares, len(up)), 0.0)
        down_left = np.maximum(down_left - np.bincount(receivers, shares, len(down)), 0.0)
        can_grow = (up_left > _SATURATED * up)[senders] & (down_left > _SATURATED * down)[receivers]
        if most is not None:
            can_grow &= rates[is_open] < most[is_open] * (1 - _SATURATED)
        is_open = is_open[can_grow]
        if not len(is_open):
            break
    return rates


def evenly_bound(rates: Floats, receiver: Indexes, receivers: int, total: float) -> Floats:
    """No more than ``total`` of all together: those that receive most are slowed down to one level, as processes that
    share CPUs are."""
    if rates.sum() <= total:
        return rates
    of_receiver = np.bincount(receiver, rates, receivers)
    ordered = np.sort(of_receiver)
    # The level if all but the first n are at it; right for the first n whose own rates are below theirs.
    levels = (total - np.concatenate([[0.0], np.cumsum(ordered)[:-1]])) / np.arange(receivers, 0, -1)
    level = levels[np.argmax(levels <= ordered)]
    return np.asarray(rates * np.minimum(1.0, level / np.maximum(of_receiver, 1e-9))[receiver], np.float64)
