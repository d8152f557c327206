"""What kubelet gets: CRI pulls with imagedist's snapshotter beside the overlayfs snapshotter of the same containerd."""

from __future__ import annotations

from collections.abc import Sequence

from bench import statistics
from bench.kubelet import Calls, Kubelet, Snapshotter
from bench.machine import describe_image
from bench.recut import with_application
from bench.result import Comparison, Result, Verdict, comparisons
from bench.result import Contestant as Measured
from bench.rounds import Job
from bench.session import Settings, image_of, session
from bench.update import APPLICATION_BYTES

_BOTH: tuple[Snapshotter, ...] = ("imagedist", "overlayfs")


def run(settings: Settings) -> Result:
    """Cold pulls, a pull of what is unpacked already, an application on its base up to a container that ran, and the
    snapshotters' own calls.

    Raises:
        ImagedistError: one of our own jobs failed.
    """
    base = image_of(settings)
    settings.say("building the application layer")
    updated = with_application(base, APPLICATION_BYTES, settings.cache)
    with session(settings) as under_way:
        image = under_way.registry.add(base, "bench/application:1")
        application = under_way.registry.add(updated, "bench/application:2")
        jobs = [Job(f"pull, {one}", Kubelet(f"pull, {one}", one), image) for one in _BOTH]
        known = Kubelet("unpacked before, imagedist", "imagedist", is_unpacked_before=True)
        jobs.append(Job(known.name, known, image, before=(image,)))
        for one in _BOTH:
            starts = Kubelet(f"application, {one}", one, is_unpacked_before=one == "imagedist", runs=True)
            jobs.append(Job(starts.name, starts, application, before=(image,), is_warmed_up=False))
        jobs += [Job(f"calls, {one}", Calls(f"calls, {one}", one), image) for one in _BOTH]
        facts = describe_image(base, settings.image)
        return under_way.run(
            jobs,
            lambda rows: under_way.result(
                "runtimes",
                facts,
                [job.contestant for job in jobs],
                rows,
                (*_compared(rows, "pull"), *_compared(rows, "application")),
                _verdicts(rows),
                application_layer=f"{APPLICATION_BYTES} bytes, gzip -6; timed until a container of it has ended",
                calls=f"{Calls.CALLS} of Prepare, Mounts and Remove, in turn",
            ),
        )


def _compared(measured: Sequence[Measured], what: str) -> tuple[Comparison, ...]:
    return comparisons([row for row in measured if row.name.startswith(f"{what}, ")], f"{what}, imagedist")


def _verdicts(measured: Sequence[Measured]) -> tuple[Verdict, ...]:
    rows = {row.name: row for row in measured}
    found = []
    aims = (("unpacked before, imagedist", "at most 0.2"), ("application, imagedist", "at most 1"))
    for name, aim in aims:
        seconds = rows[name].median_seconds
        if seconds is not None:
            found.append(Verdict(what=name, value=seconds, unit="s", aim=aim))
    ours, theirs = (rows[f"calls, {one}"].median_seconds for one in _BOTH)
    if ours is not None and theirs is not None:
        more = (ours - theirs) / Calls.CALLS * 1000
        found.append(Verdict(what="a call, more than overlayfs takes", value=more, unit="ms", aim="at most 2"))
    site = statistics.median([run.figures["site_cpu_seconds"] for run in rows["pull, imagedist"].runs])
    if site is not None:
        what = "CPU time of the site, in no row: its host is another, but here it takes of these CPUs"
        found.append(Verdict(what=what, value=site, unit="s", aim=""))
    for one in _BOTH:
        row = rows[f"pull, {one}"]
        shares = [
            run.figures["node_bytes"] / run.figures["layer_bytes"] for run in row.runs if run.figures.get("layer_bytes")
        ]
        share = statistics.median(shares)
        if share is not None:
            aim = "at most 1.05" if one == "imagedist" else "for comparison"
            found.append(Verdict(what=f"disk of the node ÷ unpacked layers, {one}", value=share, unit="×", aim=aim))
    return tuple(found)
