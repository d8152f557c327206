"""What a run leaves behind: rows that charts and tables understand, beside measured ones, and a sizing table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.distribution_chart import distribution, seconds_of
from bench.headlines import headlines
from bench.result import load
from bench.simulate.against import hold, rows_of, verdicts_of
from bench.simulate.known import KNOWN, KRAKEN, known_of
from bench.simulate.outcome import SOURCES, Outcome
from bench.simulate.rows import Simulated
from bench.simulate.rows import row_of as simulated_row
from bench.simulate.run import Plan, run
from imagedist.errors import InputError
from tests.bench.simulate.scenarios import small

EXAMPLE = Path(__file__).parent / "simulated.json"
"""``imagedist-bench simulate --nodes 1,16,256 --size 100MB --json``."""


def _quiet(line: str) -> None: ...


def test_rows_say_nodes_and_series_and_charts_draw_them() -> None:
    result = run(Plan([small(1), small(6)], runs=2), _quiet)
    simulated = [row for row in result.contestants if row.labels]
    assert [row.labels["nodes"] for row in simulated] == [1, 1, 6, 6]
    assert set(seconds_of(simulated[2])) == {"p50", "p99", "max"}
    assert distribution([(result, row) for row in simulated]) is not None
    assert len(simulated[2].runs) == 2
    assert simulated[2].summary["upstream sent"] == pytest.approx(1.002)
    shares = [simulated[2].summary[f"% {source}"] for source in ("peer", "seeder", "webseed", "proxy")]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_a_site_for_so_many_nodes_is_named() -> None:
    result = run(Plan([small(6)], torrents=20), _quiet)
    assert [part.benchmark for part in result.parts] == ["simulate", "simulate: a site's size"]
    sized = result.parts[1].contestant("a site for 6 nodes")
    assert sized is not None
    assert sized.summary["seeders"] == 2
    assert sized.summary["tracker MB"] == pytest.approx(6 * 20 * 400 / 1e6)


def test_a_burst_that_did_not_end_is_told_as_far_as_it_went_and_heads_no_report() -> None:
    result = run(Plan([small(1)]), _quiet)
    late = Outcome(np.full(3, 20.0), 1, dict.fromkeys(SOURCES, 0.0), 1e6, 0.0, 0.0, 0, 0.0, 0, 1.0)
    row = simulated_row(Simulated(small(4), (late,), (1.0,)))
    assert row.summary["p50 s"] == 20
    assert row.summary["unfinished"] == 1
    assert "max s" not in row.summary
    (said,) = headlines([result.model_copy(update={"contestants": (*result.contestants, row)})])
    assert said.startswith("1 node, simulated")


def test_the_example_is_a_result_of_this_format() -> None:
    result = load(EXAMPLE)
    assert result.benchmark == "simulate"
    assert {row.labels["nodes"] for row in result.contestants if row.labels} == {1, 16, 256}


def test_measured_runs_are_read_with_the_cpu_that_they_had(tmp_path: Path) -> None:
    measured = json.loads(EXAMPLE.read_text())
    measured["benchmark"] = "swarm"
    measured["settings"]["registry"] = "links of 8 Mbit/s, the site's 10 times as wide"
    for row in measured["contestants"]:
        for one in row["runs"]:
            one["cpu_seconds"] = 8.0
            one["figures"] |= {"busy_seconds": 10.0, "idle_seconds": 10.0}
    (tmp_path / "swarm.json").write_text(json.dumps(measured))
    known = known_of(load(tmp_path / "swarm.json"), "swarm.json")
    assert [one.scenario.nodes for one in known] == [1, 16, 256]
    assert known[1].scenario.classes[0].down == 1e6
    assert known[1].scenario.site_egress == 1e7
    # Other programs had 2 of the 20 CPU-seconds; what was left carried an image to 16 nodes in 8.
    left = 0.9 * measured["machine"]["cpus"]
    assert known[1].scenario.cpu_rate == pytest.approx(left * 16 * known[1].scenario.size / 8)
    assert known[1].scenario.join_rate == pytest.approx(left / 0.015)
    assert known[1].scenario.state == "cold"
    measured["settings"]["site"] = "has an image before nodes ask"
    (tmp_path / "warm.json").write_text(json.dumps(measured))
    assert known_of(load(tmp_path / "warm.json"), "warm.json")[1].scenario.state == "warm"
    with pytest.raises(InputError, match="expected a result of imagedist-bench swarm"):
        known_of(load(EXAMPLE), "simulated.json")


def test_the_model_is_held_against_what_was_measured_and_near_it() -> None:
    held = hold([one for one in KNOWN if one.scenario.nodes in (1, 16)], _quiet)
    assert all(verdict.value <= 15 for verdict in verdicts_of(held))
    assert {verdict.aim for verdict in verdicts_of(held)} == {"at most 15"}
    first = rows_of(held)[0]
    assert first.name == "1 node, 8 Mbit/s: p50 ÷ plain"
    assert first.summary["measured"] == 1.0
    assert first.summary["% off"] == pytest.approx(100 * (first.summary["simulated"] - 1))
    assert KRAKEN.aim_percent is None


def test_the_command_writes_a_result_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    file, runner = tmp_path / "new.json", CliRunner()
    arguments = ["simulate", "--nodes", "1,3", "--size", "4MB", "--upload", "1MB/s", "--warm", "--json", str(file)]
    assert runner.invoke(app, arguments).exit_code == 0
    assert [row.name for row in load(file).contestants if row.labels] == [
        "1 node",
        "1 node, straight",
        "3 nodes",
        "3 nodes, straight",
    ]
    for wrong in (["--nodes", "0"], ["--nodes", "30000"], ["--preheated", "2"], ["--stragglers", "many"]):
        assert runner.invoke(app, ["simulate", *wrong]).exit_code == 2
    assert runner.invoke(app, ["simulate", "--against", str(tmp_path / "absent.json")]).exit_code == 2
