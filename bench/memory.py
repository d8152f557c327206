"""How much memory a pull takes: anonymous memory of each process and of all, and the ramdisk under a small budget."""

from __future__ import annotations

from bench.contestant import Imagedist
from bench.machine import describe_image
from bench.result import Contestant, Result, Verdict
from bench.rounds import Job
from bench.session import Settings, image_of, session

_MEGABYTE = 1e6


def run(settings: Settings, budget: str = "256MiB") -> Result:
    """Pulls the image with a ramdisk of ``budget`` at most, watched from outside every ten milliseconds.

    Raises:
        ImagedistError: the pull failed.
    """
    built = image_of(settings)
    ours = Imagedist("imagedist", ("--ramdisk-budget", budget))
    with session(settings) as under_way:
        reference = under_way.registry.add(built, "bench/image:1")
        image = describe_image(built, settings.image)
        return under_way.run(
            [Job(ours.name, ours, reference, watches_closely=True)],
            lambda rows: under_way.result(
                "memory", image, [ours], rows, verdicts=_verdicts(rows[0], budget), ramdisk_budget=budget
            ),
        )


def _verdicts(row: Contestant, budget: str) -> tuple[Verdict, ...]:
    """The worst of all runs: a peak is no matter of medians."""
    wanted = (
        ("peak_process_anonymous_bytes", "largest process, anonymous", "at most 120"),
        ("peak_anonymous_bytes", "all processes, anonymous", "at most 300"),
        ("peak_ramdisk_bytes", "ramdisk", f"at most {budget}"),
    )
    return tuple(
        Verdict(what=what, value=max(run.figures[name] for run in row.runs) / _MEGABYTE, unit="MB", aim=aim)
        for name, what, aim in wanted
        if row.runs
    )
