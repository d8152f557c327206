"""Outcomes as a result that is saved, shown and drawn like every other benchmark's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.bursts import BY_IMAGEDIST, STRAIGHT
from bench.result import Contestant, Run
from bench.simulate.bounds import straight_seconds
from bench.simulate.measured import COUNTED_UPSTREAM
from bench.simulate.outcome import SOURCES, Outcome
from bench.simulate.scenario import Scenario
from bench.simulate.simulation import plain_seconds
from bench.simulate.sizing import size_of, summary_of
from bench.statistics import median

_PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True)
class Simulated:
    """Runs of one number of nodes. ``took_seconds``: of this machine's time, each."""

    scenario: Scenario
    outcomes: tuple[Outcome, ...]
    took_seconds: tuple[float, ...]


def row_of(simulated: Simulated) -> Contestant:
    """Medians of the runs; bytes divided by the image's, as the swarm's own benchmark has them. ``wait s``: the longest
    an announce waited for its turn."""
    scenario, outcomes = simulated.scenario, simulated.outcomes
    nodes, plain = scenario.nodes, plain_seconds(scenario)
    times = {name: _middle([one.percentile(percent) for one in outcomes]) for name, percent in _PERCENTS.items()}
    summary = {name: times[name] / plain for name in ("p50", "p99", "max")}
    summary |= {f"{name} s": seconds for name, seconds in times.items() if name != "p90"}
    summary["site sent"] = _middle([one.site_bytes for one in outcomes]) / scenario.size
    summary["upstream sent"] = _middle([one.upstream_bytes for one in outcomes]) / scenario.size
    for source in SOURCES:
        shares = [one.received_bytes[source] / max(sum(one.received_bytes.values()), 1.0) for one in outcomes]
        summary[f"% {source}"] = 100 * _middle(shares)
    summary["announces"] = _middle([float(one.announces) for one in outcomes])
    summary["wait s"] = _middle([one.announce_wait_seconds for one in outcomes])
    unfinished = max(one.unfinished for one in outcomes)
    if unfinished:
        summary["unfinished"] = float(unfinished)
    runs = tuple(
        Run(
            round=number,
            seconds=one.percentile(100),
            figures=_run_figures(one) | {"simulator_seconds": took},
        )
        for number, (one, took) in enumerate(zip(outcomes, simulated.took_seconds, strict=True))
        if not one.unfinished
    )
    not_run = f"{unfinished} nodes never had the whole image" if unfinished and not runs else None
    return Contestant(
        name=nodes_of(nodes),
        labels={"series": BY_IMAGEDIST, "nodes": nodes},
        runs=runs,
        not_run=not_run,
        summary=_all_finite(summary),
    )


def straight_row(scenario: Scenario) -> Contestant:
    """Everybody alike: the registry's line is shared evenly."""
    seconds = straight_seconds(scenario, scenario.nodes)
    copies = scenario.nodes * COUNTED_UPSTREAM
    return Contestant(
        name=f"{nodes_of(scenario.nodes)}, straight",
        labels={"series": STRAIGHT, "nodes": scenario.nodes},
        runs=(Run(round=0, seconds=seconds),),
        summary={"p50 s": seconds, "p99 s": seconds, "max s": seconds, "upstream sent": copies},
    )


def sizing_row(simulated: Simulated, torrents: int) -> Contestant:
    """In a table of its own."""
    sizes = [summary_of(size_of(simulated.scenario, one, torrents)) for one in simulated.outcomes]
    summary = {title: _middle([size[title] for size in sizes]) for title in sizes[0]}
    return Contestant(name=f"a site for {nodes_of(simulated.scenario.nodes)}", summary=summary)


def _run_figures(outcome: Outcome) -> dict[str, float]:
    figures = {f"{name}_seconds": outcome.percentile(percent) for name, percent in _PERCENTS.items()}
    figures |= {f"{source}_bytes": outcome.received_bytes[source] for source in SOURCES}
    figures |= {
        "site_bytes": outcome.site_bytes,
        "torrent_bytes": outcome.torrent_bytes,
        "upstream_bytes": outcome.upstream_bytes,
        "announces": float(outcome.announces),
        "announce_wait_seconds": outcome.announce_wait_seconds,
        "seeder_connections": float(outcome.seeder_connections),
        "unfinished": float(outcome.unfinished),
        "real_pieces_in_one": outcome.coarseness,
    }
    return _all_finite(figures)


def _all_finite(figures: dict[str, float]) -> dict[str, float]:
    """JSON has no infinity: a percentile that falls on an unfinished node is left out."""
    return {name: value for name, value in figures.items() if value != float("inf")}


def _middle(values: Sequence[float]) -> float:
    return median(values) or 0.0


def nodes_of(nodes: int) -> str:
    """A row's name."""
    return "1 node" if nodes == 1 else f"{nodes} nodes"
