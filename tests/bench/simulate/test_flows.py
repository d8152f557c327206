"""Sharing of links: nobody sends or receives more than it can, and what is there is used."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulate.flows import evenly_bound, fair_rates


def _graph(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    sender, receiver = dice.integers(0, 40, 400), dice.integers(0, 40, 400)
    return sender, receiver, dice.uniform(1, 10, 40), dice.uniform(1, 10, 40)


@pytest.mark.parametrize("seed", range(10))
def test_no_end_carries_more_than_its_link_can(seed: int) -> None:
    sender, receiver, up, down = _graph(seed)
    rates = fair_rates(sender, receiver, up, down)
    assert (np.bincount(sender, rates, 40) <= up * (1 + 1e-9)).all()
    assert (np.bincount(receiver, rates, 40) <= down * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(10))
def test_almost_every_flow_is_held_up_by_an_end_that_is_full(seed: int) -> None:
    sender, receiver, up, down = _graph(seed)
    rates = fair_rates(sender, receiver, up, down)
    room_up = 1 - np.bincount(sender, rates, 40) / up
    room_down = 1 - np.bincount(receiver, rates, 40) / down
    assert np.quantile(np.minimum(room_up[sender], room_down[receiver]), 0.9) < 0.05


def test_one_flow_gets_what_the_narrower_end_has() -> None:
    rates = fair_rates(np.array([0]), np.array([1]), np.array([5.0, 9.0]), np.array([9.0, 3.0]))
    assert rates.tolist() == [3.0]


def test_what_a_flow_cannot_use_is_left_to_its_neighbours() -> None:
    ends = np.array([9.0, 9.0, 9.0])
    rates = fair_rates(np.array([0, 0]), np.array([1, 2]), ends, ends, np.array([1.0, np.inf]))
    assert rates == pytest.approx([1.0, 8.0])


def test_nothing_flows_where_there_are_no_flows() -> None:
    none = np.empty(0, np.int64)
    assert fair_rates(none, none, np.ones(3), np.ones(3)).shape == (0,)


def test_a_flow_of_two_shares_gets_twice_what_its_neighbour_does() -> None:
    ends = np.array([9.0, 9.0, 9.0])
    rates = fair_rates(np.array([0, 1]), np.array([2, 2]), ends, ends, weight=np.array([1.0, 2.0]))
    assert rates.tolist() == pytest.approx([3.0, 6.0])


def test_who_receives_most_is_slowed_down_when_all_together_are_bound() -> None:
    rates, receiver = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0, 1, 1, 2])
    assert evenly_bound(rates, receiver, 3, 7.0).tolist() == pytest.approx([1.0, 1.5, 1.5, 3.0])
    assert evenly_bound(rates, receiver, 3, 3.0).tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    assert evenly_bound(rates, receiver, 3, 10.0) is rates
