"""The model beside runs that were measured or published: how far off it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.result import Contestant, Verdict
from bench.simulate.known import Known
from bench.simulate.outcome import Outcome, together
from bench.simulate.simulation import plain_seconds, simulate

_PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
_TIMES = tuple(_PERCENTS)


@dataclass(frozen=True)
class Held:
    """``simulated``: what ``known.figures`` are in the model."""

    known: Known
    simulated: dict[str, float]

    @property
    def errors(self) -> dict[str, float]:
        """Of each figure: simulated ÷ known - 1."""
        return {name: self.simulated[name] / value - 1 for name, value in self.known.figures.items()}


def hold(known: Sequence[Known], say: Callable[[str], None]) -> list[Held]:
    """Simulates each of them, as often as it was measured, with seeds that follow each other."""
    found = []
    for one in known:
        say(f"simulating {one.name}")
        seeds = range(one.scenario.seed, one.scenario.seed + one.rounds)
        outcomes = [simulate(one.scenario.model_copy(update={"seed": seed})) for seed in seeds]
        found.append(Held(one, _figures(one, outcomes)))
    return found


def rows_of(held: Sequence[Held]) -> list[Contestant]:
    """A row for each figure of each run: measured, simulated, and the error."""
    rows = []
    for one in held:
        unit = "s" if one.known.unit_seconds else "÷ plain"
        for name, value in one.known.figures.items():
            title = f"{one.known.name}: {name} {unit if name in _TIMES else '÷ image'}"
            summary = {"measured": value, "simulated": one.simulated[name], "% off": 100 * one.errors[name]}
            rows.append(Contestant(name=title, summary=summary))
    return rows


def verdicts_of(held: Sequence[Held]) -> list[Verdict]:
    """The worst error in a time of each, and that in what the site sent."""
    verdicts = []
    for one in held:
        aim = f"at most {one.known.aim_percent:g}" if one.known.aim_percent else ""
        times = max(abs(error) for name, error in one.errors.items() if name in _TIMES)
        of = f"{one.known.name} ({one.known.source})"
        verdicts.append(Verdict(what=f"off at most, in times: {of}", value=100 * times, unit="%", aim=aim))
        if "site sent" in one.errors:
            off = 100 * abs(one.errors["site sent"])
            verdicts.append(Verdict(what=f"off, in what the site sent: {of}", value=off, unit="%", aim=aim))
    return verdicts


def settings_of(held: Sequence[Held]) -> dict[str, str]:
    """Of a comparison as a whole."""
    return {
        "registry": "links, image and CPUs of each run are as they were measured (docs/simulator.md)",
        "rounds": ", ".join(sorted({f"{one.known.rounds}" for one in held})) + ", as often as each was measured",
        "off": "simulated ÷ measured - 1; times ÷ a plain download of the same run",
        "cpu": "of the simulator itself",
    }


def _figures(known: Known, outcomes: list[Outcome]) -> dict[str, float]:
    """Times of all nodes and rounds pooled, bytes as means: as the measured ones are."""
    unit = known.unit_seconds or plain_seconds(known.scenario)
    pooled = together(outcomes, 0.0)
    every = {name: pooled.percentile(percent) / unit for name, percent in _PERCENTS.items()}
    every["site sent"] = pooled.site_bytes / len(outcomes) / known.scenario.size
    return {name: every[name] for name in known.figures}
