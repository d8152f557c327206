"""The model beside runs that were measured or published: how far off it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.result import Contestant, Run, Verdict
from bench.simulate.known import Known
from bench.simulate.outcome import Outcome
from bench.simulate.simulation import plain_seconds, simulate

_PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
_TIMES = ("p50", "p90", "p99", "p99.9", "max")
"""Those of which the error counts."""


@dataclass(frozen=True)
class Held:
    """``simulated``: what ``known.figures`` are in the model."""

    known: Known
    simulated: dict[str, float]
    seconds: float

    @property
    def errors(self) -> dict[str, float]:
        """Of each figure: simulated ÷ known - 1."""
        return {name: self.simulated[name] / value - 1 for name, value in self.known.figures.items()}


def hold(known: Sequence[Known], say: Callable[[str], None]) -> list[Held]:
    """Simulates each of them."""
    found = []
    for one in known:
        say(f"simulating {one.name}")
        outcome = simulate(one.scenario)
        found.append(Held(one, _figures(one, outcome), outcome.percentile(100)))
    return found


def row_of(held: Held) -> Contestant:
    """Known and simulated side by side, and the error in per cent."""
    summary: dict[str, float] = {}
    for name, value in held.known.figures.items():
        summary |= {f"{name} known": value, name: held.simulated[name], f"{name} % off": 100 * held.errors[name]}
    runs = (Run(round=0, seconds=held.seconds, cpu_seconds=0.0),)
    return Contestant(name=f"model of {held.known.name}", runs=runs, summary=summary)


def verdicts_of(held: Sequence[Held]) -> list[Verdict]:
    """The worst error in a time of each."""
    return [
        Verdict(
            what=f"off at most, in times: {one.known.name} ({one.known.source})",
            value=max(100 * abs(error) for name, error in one.errors.items() if name in _TIMES),
            unit="%",
            aim=f"at most {one.known.aim_percent:g}" if one.known.aim_percent else "",
        )
        for one in held
    ]


def _figures(known: Known, outcome: Outcome) -> dict[str, float]:
    unit = known.unit_seconds or plain_seconds(known.scenario)
    every = {name: outcome.percentile(percent) / unit for name, percent in _PERCENTS.items()}
    every["site sent"] = outcome.site_bytes / known.scenario.size
    return {name: every[name] for name in known.figures}
