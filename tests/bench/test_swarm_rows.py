"""The benchmarks beside the bursts: lone nodes, one peer without caps, many small torrents; each with little to do."""

from __future__ import annotations

import pytest

from bench import lone, many, transfer
from bench.result import Result, Run


def _runs(*seconds: float) -> list[Run]:
    return [Run(round=number, seconds=each, cpu_seconds=each / 2) for number, each in enumerate(seconds)]


def silent(line: str) -> None:
    """Says nothing."""


def test_lone_nodes_are_held_against_plain_downloads_of_the_same_round() -> None:
    names = {name for pair in lone.PAIRS.items() for name in (pair[0], pair[1][0])}
    runs = {name: _runs(1.0, 2.0) for name in names} | {"100 kB": _runs(0.012), "100 kB, plain": _runs(0.010)}
    runs["2 nodes"] = _runs(1.1, 2.2)
    said = {verdict.what: verdict.value for verdict in lone.verdicts_of(runs)}
    assert said["2 nodes ÷ 2 nodes, plain"] == pytest.approx(1.1)
    assert said["1 node ÷ 1 node, plain"] == 1.0
    assert said["a layer of 100 kB: longer by"] == pytest.approx(2.0)


@pytest.mark.network
@pytest.mark.e2e("docker-registry", "skopeo")
def test_every_way_of_a_lone_node_is_gone_once() -> None:
    kept: list[Result] = []
    result = lone.run(lone.Scale(image_bytes=3_000_000, rounds=1), silent, kept.append)
    assert all(row.seconds for row in result.contestants)
    assert [sum(len(row.runs) for row in each.contestants) for each in kept] == list(range(1, 11))
    assert len(result.verdicts) == len(lone.PAIRS) + 1


def test_a_blob_comes_by_swarm_and_by_http_in_processes_of_their_own() -> None:
    kept: list[Result] = []
    result = transfer.run(transfer.Scale(size_bytes=2_000_000, rounds=1), silent, kept.append)
    assert [sum(len(row.runs) for row in each.contestants) for each in kept] == [1, 2, 3, 4]
    assert [row.name for row in result.contestants] == [transfer.NODE, transfer.SEEDER, transfer.HTTP, transfer.HASHED]
    assert all(row.summary["MB/s"] > 0 for row in result.contestants)
    assert [verdict.aim for verdict in result.verdicts] == ["at least 0.35", "at most 3", "", ""] * 2


@pytest.mark.network
@pytest.mark.e2e("docker-registry")
def test_requests_for_small_torrents_are_counted_and_an_agents_memory_is_read() -> None:
    kept: list[Result] = []
    result = many.run(many.Scale(nodes=2, torrents=6, seeded=3), silent, kept.append)
    assert [len(each.verdicts) for each in kept] == [1, 2]
    whole, at_rest, seeding = (verdict.value for verdict in result.verdicts)
    assert at_rest > 0
    assert seeding > 0
    figures = result.contestants[0].runs[0].figures
    assert figures["requests"] + figures["errors"] == 12
    assert whole == pytest.approx(100 * figures["requests"] / 12)
    assert ("first_failure" in result.settings) == bool(figures["errors"]), result.settings
