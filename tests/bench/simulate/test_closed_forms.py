"""The model where pencil and paper know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulate.bounds import fluid_seconds, straight_seconds
from bench.simulate.flows import fair_rates
from bench.simulate.links import Links
from bench.simulate.measured import ACKNOWLEDGEMENTS, ANSWER_SECONDS, HEADERS, JOIN_SECONDS
from bench.simulate.members import Members
from bench.simulate.pieces import Pieces
from bench.simulate.simulation import plain_seconds, simulate
from bench.simulate.trading import Trading
from tests.bench.simulate.scenarios import RATE, SIZE, small


def test_one_node_takes_as_long_as_its_link() -> None:
    seconds = simulate(small(1, state="warm")).percentile(100)
    assert seconds == pytest.approx(SIZE * HEADERS / RATE + ANSWER_SECONDS, rel=0.01)


def test_one_node_of_a_cold_site_takes_as_long_as_the_narrowest_link() -> None:
    seconds = simulate(small(1, upstream=RATE / 2)).percentile(100)
    assert seconds == pytest.approx(2 * SIZE * HEADERS / RATE, rel=0.01)


def test_one_node_of_a_site_with_a_cap_takes_as_long_as_the_cap() -> None:
    seconds = simulate(small(1, state="warm", site_egress=RATE / 4)).percentile(100)
    assert seconds == pytest.approx(4 * SIZE * HEADERS / RATE, rel=0.01)


def test_a_seeder_without_bounds_gives_every_node_its_full_link() -> None:
    outcome = simulate(small(12, state="warm", copies=1000, site_egress=1e11, web_seeds=False))
    links = SIZE * (HEADERS + ACKNOWLEDGEMENTS) / RATE
    assert links < outcome.percentile(100) < 1.05 * links + JOIN_SECONDS


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_chain_ends_a_pieces_time_later_for_each_of_its_links(length: int) -> None:
    pieces = Pieces(size_bytes=100, count=10, length=10, real_count=10)
    members = Members(length + 1, pieces, np.random.default_rng(1))
    members.fill(np.array([0]))
    links = Links(members)
    trading = Trading(members, links)
    trading.ask(links.connect(np.arange(length), np.arange(1, length + 1)))
    ends, now, tick = np.ones(length + 1), 0.0, 0.25
    while not members.is_done.all():
        assert now < 1000
        coming = links.coming
        target, piece = links.target[coming], links.piece[coming]
        members.take(target, piece, tick * fair_rates(links.source[coming], target, ends, ends))
        now += tick
        whole = members.left[target, piece] <= 0
        members.complete(target[whole], piece[whole], now)
        links.piece[coming[whole]] = -1
        trading.ask(np.concatenate([trading.told(target[whole], piece[whole]), coming[whole]]))
    assert members.done_at[1:].tolist() == [100.0 + 10.0 * behind for behind in range(length)]


@pytest.mark.parametrize(
    ("nodes", "egress", "up", "copies"),
    [(8, 2 * RATE, RATE, 1), (16, 10 * RATE, RATE, 1), (16, 4 * RATE, RATE / 2, 1000)],
)
def test_no_burst_beats_the_fluid_bound_and_none_is_far_from_it(
    nodes: int, egress: float, up: float, copies: float
) -> None:
    values = {"copies": copies, "classes": [{"up": up, "down": RATE}], "web_seeds": False}
    outcome = simulate(small(nodes, state="warm", site_egress=egress, **values))
    seconds = outcome.percentile(100)
    payload = HEADERS + ACKNOWLEDGEMENTS
    bound = fluid_seconds(SIZE, egress / HEADERS, [up / payload] * nodes, [RATE / payload] * nodes)
    assert bound <= seconds * (1 + 1e-6)
    assert outcome.percentile(50) < 1.1 * bound
    assert seconds < 1.2 * bound


def test_straight_from_the_registry_its_line_is_shared() -> None:
    scenario = small(100)
    assert straight_seconds(scenario, 5) == pytest.approx(plain_seconds(scenario))
    assert straight_seconds(scenario, 100) == pytest.approx(10 * plain_seconds(scenario))
