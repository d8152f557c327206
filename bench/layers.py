"""Does the cut into layers matter? The same files in 1 to 32 layers, and one fat layer with one CPU and with two."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench import statistics
from bench.contestant import Contestant, Imagedist
from bench.machine import describe_image
from bench.recut import recut
from bench.result import Contestant as Measured
from bench.result import Result, Verdict
from bench.rounds import Job
from bench.session import Settings, image_of, session

CUTS = (1, 2, 4, 8, 16, 32)


def run(settings: Settings, cuts: Sequence[int] = CUTS, peers: Sequence[Contestant] = ()) -> Result:
    """Pulls every cut with imagedist (and the peers), and the fat layer on one CPU and on two.

    With fewer CPUs, registry and client share the ones that are left: it is the machine that has one CPU.

    Raises:
        ImagedistError: one of our own commands failed.
    """
    built = image_of(settings)
    ours = Imagedist()
    cpus = sorted(os.sched_getaffinity(0))
    with session(settings) as under_way:
        jobs = []
        for count in cuts:
            settings.say(f"cutting into {count} layers")
            cut = recut(built, count, settings.cache)
            reference = under_way.registry.add(cut, f"bench/cut-{count}:1")
            jobs += [Job(f"{one.name}, {_layers(count)}", one, reference) for one in (ours, *peers)]
            if count == 1:
                jobs += [
                    Job(f"{_layers(1)}, {number} CPU{'s' if number > 1 else ''}", ours, reference, cpus=cpus[:number])
                    for number in (1, 2)
                    if number <= len(cpus)
                ]
        measured = under_way.measure(jobs)
        verdicts = [_slowest_to_fastest(measured, one, cuts) for one in (ours, *peers)]
        verdicts.append(_speedup(measured))
        found = tuple(verdict for verdict in verdicts if verdict is not None)
        image = describe_image(built, settings.image)
        return under_way.result("layers", image, [ours, *peers], measured, verdicts=found)


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _slowest_to_fastest(measured: Sequence[Measured], one: Contestant, cuts: Sequence[int]) -> Verdict | None:
    names = {f"{one.name}, {_layers(count)}" for count in cuts}
    medians = [row.median_seconds for row in measured if row.name in names]
    known = [median for median in medians if median is not None]
    if len(known) < 2:
        return None
    aim = "at most 1.2" if isinstance(one, Imagedist) else "for comparison"
    return Verdict(
        what=f"{one.name}: slowest ÷ fastest of {len(known)} cuts", value=max(known) / min(known), unit="×", aim=aim
    )


def _speedup(measured: Sequence[Measured]) -> Verdict | None:
    """Two CPUs against one, pair by pair."""
    by_name = {row.name: {run.round: run.seconds for run in row.runs} for row in measured}
    ratios = statistics.pair_ratios(by_name.get("1 layer, 2 CPUs", {}), by_name.get("1 layer, 1 CPU", {}))
    middle = statistics.median(ratios)
    if middle is None:
        return None
    return Verdict(what="one fat layer: 2 CPUs against 1", value=middle, unit="×", aim="at least 1.6")
