"""One number of nodes after the other, the model beside known runs, a sizing table: as parts of one result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import Start, describe_machine, versions
from bench.result import Contestant, ImageFacts, Keep, Result, Run, Verdict
from bench.simulate import against, target
from bench.simulate.outcome import Outcome
from bench.simulate.rows import Simulated, nodes_of, row_of, sizing_row, straight_row
from bench.simulate.run import Plan, Say
from bench.simulate.scenario import Scenario
from bench.simulate.simulation import plain_seconds, simulate

BENCHMARK = "simulate"
_SAID_SECONDS = 5.0


def tell(plan: Plan, say: Say, keep: Keep) -> Result:
    """As ``run``."""
    start = Start.now()
    parts: list[Result] = []

    def part(name: str, of: Scenario, rows: Sequence[Contestant], verdicts: Sequence[Verdict] = ()) -> Result:
        return Result(
            benchmark=name,
            started=start.at,
            machine=describe_machine(Path("/"), start.cpus),
            versions=versions([]),
            image=ImageFacts(name="simulated", manifest_digest="", layers=of.layers, compressed_bytes=of.size),
            settings=_settings(plan, of),
            contestants=tuple(rows),
            verdicts=tuple(verdicts),
        )

    if plan.scenarios:
        first = plan.scenarios[0]
        only = Run(round=0, seconds=plain_seconds(first))
        rows, sizes = [Contestant(name="a plain download", runs=(only,))], []
        for scenario in plan.scenarios:
            simulated = _simulated(scenario, plan.runs, say)
            rows += [row_of(simulated), straight_row(scenario)]
            if plan.torrents is not None:
                sizes.append(sizing_row(simulated, plan.torrents))
            keep(part(BENCHMARK, first, rows))
        parts.append(part(BENCHMARK, first, rows))
        if sizes:
            parts.append(part(f"{BENCHMARK}: a site's size", first, sizes))
    if plan.within_seconds is not None:
        sought: list[target.Found] = []
        for scenario in plan.scenarios:
            sought.append(target.find(scenario, plan.within_seconds, lambda one: _with_seeders(one, say)))
            rows, verdicts = [target.row_of(one) for one in sought], [target.verdict_of(one) for one in sought]
            within = part(f"{BENCHMARK}: p99 within {plan.within_seconds:g} s", plan.scenarios[0], rows, verdicts)
            keep(_together([*parts, within]))
        parts.append(within)
    if plan.known:
        held = against.hold(plan.known, say)
        compared = part(
            f"{BENCHMARK}: beside known runs", held[0].known.scenario, against.rows_of(held), against.verdicts_of(held)
        )
        parts.append(compared.model_copy(update={"settings": against.settings_of(held)}))
    return _together(parts)


def _together(parts: Sequence[Result]) -> Result:
    if len(parts) == 1:
        return parts[0]
    return parts[0].model_copy(update={"contestants": (), "verdicts": (), "parts": tuple(parts)})


def _with_seeders(scenario: Scenario, say: Say) -> Outcome:
    say(f"seeders: {scenario.seeders}")
    return _simulated(scenario, 1, say).outcomes[0]


def _simulated(scenario: Scenario, runs: int, say: Say) -> Simulated:
    outcomes, took = [], []
    for number in range(runs):
        say(f"{nodes_of(scenario.nodes)}, run {number + 1} of {runs}")
        began, said = time.process_time(), [time.monotonic()]

        def ended(seconds: float, share: float, said: list[float] = said) -> None:
            if time.monotonic() - said[0] >= _SAID_SECONDS:
                said[0] = time.monotonic()
                say(f"  {seconds:.1f} simulated seconds, {share:.0%} of the nodes are done")

        outcomes.append(simulate(scenario.model_copy(update={"seed": scenario.seed + number}), ended))
        took.append(time.process_time() - began)
    return Simulated(scenario, tuple(outcomes), tuple(took))


def _settings(plan: Plan, first: Scenario) -> dict[str, str]:
    links = ", ".join(
        f"{one.name} {one.share:.0%} {8 * one.up / 1e6:g} up, {8 * one.down / 1e6:g} down" for one in first.classes
    )
    settings = {
        "registry": f"simulated links in Mbit/s: {links}; the site's {8 * first.site_egress / 1e6:g}",
        "rounds": str(plan.runs),
        "scenario": first.model_dump_json(exclude_defaults=True),
        "cpu": "of the simulator itself",
    }
    return settings if plan.torrents is None else settings | {"torrents": f"{plan.torrents} that each node seeds"}
