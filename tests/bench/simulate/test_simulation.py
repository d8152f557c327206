"""Whole bursts: the books balance, the same seed is the same burst, and what nodes suffer shows."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulate.measured import COUNTED_UPSTREAM, HEADERS
from bench.simulate.simulation import plain_seconds, simulate
from tests.bench.simulate.scenarios import RATE, SIZE, small


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"state": "warm"},
        {"preheated": 0.25},
        {"stragglers": {"share": 0.2, "rate": RATE / 5}},
        {"sites": 2, "inter_site": 2 * RATE},
    ],
)
def test_every_byte_received_was_sent_and_nobody_sends_more_than_its_link(values: dict[str, object]) -> None:
    scenario = small(12, **values)
    outcome = simulate(scenario)
    assert outcome.unfinished == 0
    images = sum(outcome.received_bytes.values()) / SIZE
    wanted = len(outcome.seconds)
    assert outcome.sent_bytes.sum() == pytest.approx(images * SIZE)
    # Blocks of the end game come twice.
    assert wanted - 0.01 <= images < 1.1 * wanted
    longest = outcome.percentile(100) + 60
    assert outcome.sent_bytes[:6].max() <= RATE / HEADERS * longest


def test_the_same_seed_is_the_same_burst_and_another_one_is_not() -> None:
    scenario = small(12, churn={"per_minute": 0.3}, stragglers={"share": 0.1, "rate": RATE / 2})
    one, again = simulate(scenario), simulate(scenario)
    assert np.array_equal(one.seconds, again.seconds)
    assert one.received_bytes == again.received_bytes
    other = simulate(scenario.model_copy(update={"seed": 2}))
    assert not np.array_equal(one.seconds, other.seconds)


def test_stragglers_are_late_and_hold_up_nobody_else() -> None:
    scenario = small(20, state="warm", stragglers={"share": 0.1, "rate": RATE / 4})
    outcome = simulate(scenario)
    plain = plain_seconds(scenario)
    assert outcome.percentile(100) >= 4 * plain
    assert outcome.percentile(85) < 1.6 * plain


def test_the_slowest_straggler_is_waited_for() -> None:
    outcome = simulate(small(10, state="warm", steps=50, stragglers={"share": 0.1, "rate": RATE / 40}))
    assert outcome.unfinished == 0
    assert outcome.percentile(100) > 40 * SIZE * HEADERS / RATE


def test_nodes_that_are_switched_off_are_back_and_get_the_image() -> None:
    outcome = simulate(small(12, churn={"per_minute": 0.9, "back": 10}))
    assert outcome.unfinished == 0
    assert len(outcome.seconds) == 12


def test_preheated_nodes_give_so_that_the_site_gives_less() -> None:
    cold, preheated = (simulate(small(16, state="warm", preheated=share)) for share in (0.0, 0.5))
    assert len(preheated.seconds) == 8
    assert preheated.site_bytes < cold.site_bytes


def test_other_sites_wait_for_the_first_one_and_spare_the_registry() -> None:
    asking, copying = (simulate(small(8, sites=2, inter_site=rate)) for rate in (None, 2 * RATE))
    assert asking.upstream_bytes == pytest.approx(2 * SIZE * COUNTED_UPSTREAM)
    assert copying.upstream_bytes == pytest.approx(SIZE * COUNTED_UPSTREAM)
    assert copying.percentile(75) > asking.percentile(75)


def test_a_slow_upstream_lets_waiting_nodes_stream() -> None:
    outcome = simulate(small(6, upstream=RATE / 2, first_wave_wait=5, web_seeds=False))
    assert outcome.received_bytes["proxy"] > 3 * SIZE


def test_one_machines_cpu_holds_everybody_up() -> None:
    free, bound = (simulate(small(12, cpu_rate=rate)) for rate in (None, 6 * RATE))
    assert bound.percentile(50) > 1.6 * free.percentile(50)


def test_a_crowd_needs_more_announces_than_one_core_answers_at_once() -> None:
    outcome = simulate(small(300, size=2_200_000, steps=60, state="warm"))
    assert outcome.announces >= 600
    assert outcome.announce_wait_seconds > 0.1
