"""How few seeders end a burst in time: the bounds, the search, and what is said where none do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.result import load
from bench.simulate.measured import HEADERS
from bench.simulate.outcome import SOURCES, Outcome
from bench.simulate.scenario import Scenario
from bench.simulate.target import bounds_of, find, row_of, verdict_of
from tests.bench.simulate.scenarios import RATE, SIZE, small

LINK = SIZE * HEADERS / RATE


def _outcome(seconds: float) -> Outcome:
    return Outcome(np.array([seconds]), 0, dict.fromkeys(SOURCES, 0.0), 1e6, 0.0, 0.0, 0, 0.0, 0, 1.0)


class _Model:
    """A burst that takes so long with so many seeders. ``tried``: seeders and replicas, in turn."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._seconds = seconds
        self.tried: list[tuple[int, int]] = []

    def __call__(self, scenario: Scenario) -> Outcome:
        self.tried.append((scenario.seeders, scenario.replicas))
        return _outcome(next(value for least, value in sorted(self._seconds.items()) if scenario.seeders <= least))


def _bounds(scenario: Scenario, seeders: int) -> list[float]:
    return [bound.seconds for bound in bounds_of(scenario, seeders)]


def test_bounds_are_the_closed_forms() -> None:
    warm = small(200, state="warm", classes=[{"up": RATE / 10, "down": RATE}])
    own, seeders, registry, together = _bounds(warm, 3)
    assert own == pytest.approx(LINK)
    assert seeders == pytest.approx(LINK / 30)
    assert registry == 0
    assert together == pytest.approx(198 * LINK / (30 + 20))
    assert _bounds(small(200, upstream=RATE / 2), 1)[2] == pytest.approx(2 * LINK)


def test_a_hundredth_of_slow_nodes_is_no_bound_and_late_nodes_wait_less() -> None:
    few, more = (small(200, stragglers={"share": share, "rate": RATE / 8}) for share in (0.01, 0.02))
    assert [_bounds(one, 1)[0] for one in (few, more)] == pytest.approx([LINK, 8 * LINK])
    assert _bounds(small(200, upstream=RATE / 2, arrival=10), 1)[2] == pytest.approx(2 * LINK - 10)


@pytest.mark.parametrize("fewest", [1, 2, 3, 5, 8, 37, 64])
def test_the_fewest_seeders_in_time_are_found(fewest: int) -> None:
    model = _Model({one: 20.0 if one >= fewest else 1000.0 / (1 + one) + 25 for one in range(1, 65)})
    found = find(small(8, state="warm"), 20.0, model)
    assert (found.seeders, found.is_reached) == (fewest, True)
    assert all(replicas >= seeders for seeders, replicas in model.tried)
    assert verdict_of(found).is_met
    assert row_of(found).summary["seeders"] == fewest


def test_the_search_begins_where_the_bounds_allow() -> None:
    model = _Model({64: 20.0})
    scenario = small(200, state="warm", classes=[{"up": RATE / 10, "down": RATE}])
    found = find(scenario, 60.0, model)
    assert found.seeders == 4  # 198 × 16.8 s ÷ (10 × seeders + 20) ≤ 60
    assert model.tried == [(4, 4)]


def test_what_a_bound_forbids_is_not_simulated_and_says_which() -> None:
    model = _Model({})
    found = find(small(8), LINK - 1, model)
    assert not found.is_reached
    assert model.tried == []
    verdict = verdict_of(found)
    assert verdict.is_met is False
    assert "a node's own link" in verdict.what
    assert row_of(found).summary == {"bound s": pytest.approx(LINK)}


def test_the_search_ends_where_more_seeders_do_not_help() -> None:
    model = _Model({1: 40.0, 2: 31.0, 64: 30.9})
    found = find(small(8, state="warm"), 20.0, model)
    assert [seeders for seeders, _ in model.tried] == [1, 2, 4]
    assert not found.is_reached
    assert "more do not help" in verdict_of(found).what
    assert verdict_of(found).value == 30.9


def test_nodes_that_never_had_it_are_counted() -> None:
    def never(scenario: Scenario) -> Outcome:
        return Outcome(np.zeros(5), 3, dict.fromkeys(SOURCES, 0.0), 1e6, 0.0, 0.0, 0, 0.0, 0, 1.0)

    found = find(small(8, state="warm"), 20.0, never)
    verdict = verdict_of(found)
    assert (verdict.value, verdict.unit, verdict.is_met) == (3, "nodes", False)
    assert "p99 s" not in row_of(found).summary


def test_the_command_writes_how_many_seeders_it_takes(tmp_path: Path) -> None:
    file, runner = tmp_path / "new.json", CliRunner()
    arguments = ["simulate", "--nodes", "2,4", "--size", "4MB", "--upload", "1MB/s", "--warm", "--json", str(file)]
    assert runner.invoke(app, [*arguments, "--within", "10"]).exit_code == 0
    parts = {part.benchmark: part for part in load(file).parts}
    assert list(parts) == ["simulate", "simulate: p99 within 10 s"]
    within = parts["simulate: p99 within 10 s"]
    assert [row.name for row in within.contestants] == ["2 nodes", "4 nodes"]
    assert [verdict.is_met for verdict in within.verdicts] == [True, True]
    for wrong in (["--within", "0"], ["--within", "soon"], ["--within", "10", "--against", "known"]):
        assert runner.invoke(app, ["simulate", *wrong]).exit_code == 2
