"""A new version of an application on a node that has its base: only the layer on top is pulled."""

from __future__ import annotations

from collections.abc import Sequence

from bench import statistics
from bench.contestant import Contestant
from bench.machine import describe_image
from bench.recut import with_application
from bench.result import Contestant as Measured
from bench.result import Result, Verdict, comparisons
from bench.rounds import Job
from bench.session import Settings, image_of, session

APPLICATION_BYTES = 20_000_000
"""Compressed bytes of the layer on top."""
DEFAULT = ("agent", "imagedist", "docker")
"""Who pulls; others are compared with the first."""


def run(settings: Settings, contestants: Sequence[Contestant], ours: str) -> Result:
    """Pulls the image, then (and only that is timed, as a whole process) the same with a layer on top.

    Args:
        ours: the name of the contestant the others are compared with.

    Raises:
        ImagedistError: one of our own commands failed.
    """
    base = image_of(settings)
    settings.say("building the application layer")
    updated = with_application(base, APPLICATION_BYTES, settings.cache)
    with session(settings) as under_way:
        before = under_way.registry.add(base, "bench/application:1")
        reference = under_way.registry.add(updated, "bench/application:2")
        image = describe_image(updated, f"{settings.image} with an application layer")

        def result_of(rows: Sequence[Measured]) -> Result:
            mine = next((row for row in rows if row.name == ours), None)
            seconds = statistics.median(mine.seconds) if mine else None
            return under_way.result(
                "update",
                image,
                contestants,
                rows,
                comparisons(rows, ours),
                () if seconds is None else (Verdict(what=ours, value=seconds, unit="s", aim="at most 0.5"),),
                application_layer=f"{APPLICATION_BYTES} bytes, gzip -6",
            )

        return under_way.run([Job(one.name, one, reference, before=(before,)) for one in contestants], result_of)
