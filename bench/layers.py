"""Does the cut into layers matter? The same files in 1 to 32 layers, by everybody; one fat layer on 1 and 2 CPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench import statistics
from bench.contestant import Contestant, Imagedist
from bench.image_choice import recompressed
from bench.machine import describe_image
from bench.recut import recut
from bench.result import Contestant as Measured
from bench.result import Result, Verdict
from bench.rounds import Job
from bench.session import Session, Settings, aim_with, image_of, session
from imagedist.demo.layout import BuiltImage
from imagedist.repack.recipe import Compression, Recipe

CUTS = (1, 2, 4, 8, 16, 32)
FORMS: tuple[Compression, ...] = ("pgzip", "zstd")
"""Beside gzip, which is what registries have and what peers can read."""
_OURS = Imagedist()


def run(
    settings: Settings,
    cuts: Sequence[int] = CUTS,
    beside: Sequence[Contestant] = (),
    forms: Sequence[Compression] = (),
) -> Result:
    """Pulls every cut with imagedist and those beside it, and the fat layer on one CPU and on two.

    With fewer CPUs, registry and client share the ones that are left: it is the machine that has one CPU.

    Args:
        forms: further compressions, pulled with imagedist.

    Raises:
        ImagedistError: one of our own commands failed.
    """
    built = image_of(settings)
    with session(settings) as under_way:
        jobs = [job for count in cuts for job in _jobs(under_way, built, count, beside, forms)]
        image = describe_image(built, settings.image)

        def result_of(rows: Sequence[Measured]) -> Result:
            series = [_OURS.name, *(f"{_OURS.name}, {form}" for form in forms), *(one.name for one in beside)]
            aims = {_OURS.name: aim_with(image, "at most 1.2")}
            said = [_slowest_to_fastest(rows, name, aims.get(name, "for comparison")) for name in series]
            said.append(_speedup(rows, aim_with(image, "at least 1.6")))
            verdicts = tuple(verdict for verdict in said if verdict is not None)
            forms_told = f"gzip -6; pgzip and zstd are {_OURS.name}'s way alone" if forms else "gzip -6"
            who = [_OURS, *beside]
            return under_way.result("layers", image, who, rows, verdicts=verdicts, compression=forms_told)

        return under_way.run(jobs, result_of)


def _jobs(
    under_way: Session, built: BuiltImage, count: int, beside: Sequence[Contestant], forms: Sequence[Compression]
) -> list[Job]:
    settings = under_way.settings
    settings.say(f"cutting into {_layers(count)}")
    cut = recut(built, count, settings.cache)
    reference = under_way.registry.add(cut, f"bench/cut-{count}:1")

    def job(series: str, one: Contestant, reference: str, cpus: Sequence[int] | None = None) -> Job:
        return Job(f"{series}, {_layers(count)}", one, reference, {"series": series, "layers": count}, cpus=cpus)

    jobs = [job(one.name, one, reference) for one in (_OURS, *beside)]
    for form in forms:
        again = recompressed(cut, Recipe.of(form), settings.cache, settings.say)
        jobs.append(job(f"{_OURS.name}, {form}", _OURS, under_way.registry.add(again, f"bench/cut-{count}-{form}:1")))
    if count == 1:
        cpus = sorted(os.sched_getaffinity(0))
        jobs += [
            Job(f"{_layers(1)}, {_cpus(number)}", _OURS, reference, cpus=cpus[:number])
            for number in (1, 2)
            if number <= len(cpus)
        ]
    return jobs


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _cpus(count: int) -> str:
    return "1 CPU" if count == 1 else f"{count} CPUs"


def _slowest_to_fastest(rows: Sequence[Measured], series: str, aim: str) -> Verdict | None:
    medians = [row.median_seconds for row in rows if row.labels.get("series") == series]
    known = [median for median in medians if median is not None]
    if len(known) < 2:
        return None
    return Verdict(
        what=f"{series}: slowest ÷ fastest of {len(known)} cuts", value=max(known) / min(known), unit="×", aim=aim
    )


def _speedup(rows: Sequence[Measured], aim: str) -> Verdict | None:
    """Two CPUs against one, pair by pair."""
    by_name = {row.name: {run.round: run.seconds for run in row.runs} for row in rows}
    ratios = statistics.pair_ratios(by_name.get("1 layer, 2 CPUs", {}), by_name.get("1 layer, 1 CPU", {}))
    middle = statistics.median(ratios)
    if middle is None:
        return None
    return Verdict(what="one fat layer: 2 CPUs against 1", value=middle, unit="×", aim=aim)
