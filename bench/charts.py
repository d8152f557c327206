"""The charts of a report: what is drawn, from which rows. matplotlib draws them in ``drawing.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import drawing
from bench.distribution_chart import distribution
from bench.drawing import Drawn
from bench.headlines import costs
from bench.result import Contestant, Result
from bench.statistics import median
from imagedist.errors import storage_error
from imagedist.progress import STAGES

Rows = Sequence[tuple[Result, Contestant]]

_STEPS = {
    "fetch": ("curl_cpu_seconds", "registry_cpu_seconds"),
    "inflate": ("inflate_cpu_seconds",),
    "hash": ("sha256_of_blobs_cpu_seconds", "sha256_of_tars_cpu_seconds"),
    "stage": ("write_tars_cpu_seconds",),
    "extract": ("extract_cpu_seconds",),
}
"""Steps of ``limit``, by what they are for."""
_TOGETHER = "decode"
"""Inflating, hashing and staging, in results of versions that did not tell them apart."""
_NOT_ACCELERATED = (
    "docker, containerd's own snapshotter (cri, containerd, nerdctl), podman and skopeo+umoci unpack by themselves, "
    "one layer after the other; containerd-parallel and soci several at once: imagedist brings them blobs faster, and "
    "does not make their unpacking faster."
)


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture and how its figures were made.

    Attributes:
        name: of its files.
        notes: what is not in it, and why.
    """

    name: str
    title: str
    method: str
    drawn: Drawn
    notes: Sequence[str] = field(default=())


def charts_of(results: Sequence[Result]) -> list[Chart]:
    """Those that these results have rows for."""
    parts = [part for result in results for part in result.benchmarks]
    rows = [(part, row) for part in parts for row in part.contestants]
    makers: tuple[Callable[[Rows], Chart | None], ...] = (_distribution, _unpack, _stages, _pull)
    return [chart for maker in makers if (chart := maker(rows)) is not None]


def write_charts(charts: Sequence[Chart], directory: Path) -> Iterator[Path]:
    """Writes each as PNG and as SVG; their paths.

    Raises:
        StorageError: no space or no permission.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            for kind, content in (("png", chart.drawn.png), ("svg", chart.drawn.svg)):
                path = directory / f"{chart.name}.{kind}"
                path.write_bytes(content)
                yield path
    except OSError as error:
        raise storage_error(f"write charts into {directory}", error) from error


def _distribution(rows: Rows) -> Chart | None:
    found = distribution([(part, row) for part, row in rows if isinstance(row.labels.get("nodes"), int)])
    if found is None:
        return None
    notes = [f"not run: {row.name}: {row.not_run}" for part, row in rows if part.benchmark == "swarm" and row.not_run]
    return Chart("distribution", "Time to give N nodes a new image", found.method, found.drawn, notes)


def _unpack(rows: Rows) -> Chart | None:
    cuts = [(part, row) for part, row in rows if part.benchmark == "layers" and _is_cut(row)]
    if not cuts:
        return None
    part = cuts[0][0]
    pooled: dict[tuple[str, int], list[float]] = {}
    notes = [_NOT_ACCELERATED]
    for other, row in cuts:
        name = str(row.labels["series"])
        if other.image != part.image:
            notes.append(f"not in the picture: {row.name}, of another image ({other.image.name})")
        elif row.not_run:
            notes.append(f"not run: {name}: {row.not_run}")
        else:
            pooled.setdefault((name, int(row.labels["layers"])), []).extend(row.seconds)
    lines: dict[str, list[drawing.Point]] = {}
    for (name, count), seconds in pooled.items():
        if (middle := median(seconds)) is not None:
            lines.setdefault(name, []).append(drawing.Point(count, middle, min(seconds), max(seconds)))
    if not lines:
        return None
    drawn = drawing.panels(_by_runtime_and_compression(lines), "layers in the image")
    method = (
        f"{_image(part)}, the same files cut into so many layers, pulled from a registry on the same machine into an "
        f"empty store on {_where(part)}. Points are medians of {part.settings.get('rounds', '?')} cold runs, bars "
        "their range; nobody's daemon starts in the time that counts. gzip -6 unless a line says otherwise. serial: "
        "one layer after the other; staged: all layers decoded at once into a ramdisk, staged-disk: onto the store's "
        "disk, then unpacked one by one; imagedist: everything at once. cri: kubelet's pull by containerd's overlayfs "
        "snapshotter; cri-imagedist: the same by imagedist's, with agent, proxy and seeder on the same CPUs (the CPU "
        "time of proxy and seeder has a column of its own in the table); soci: by SOCI's in its parallel mode. "
        "containerd-parallel: a containerd told to unpack four layers at once."
    )
    return Chart("unpack", "Time to unpack, by the number of layers", method, drawn, list(dict.fromkeys(notes)))


def _by_runtime_and_compression(lines: Mapping[str, Sequence[drawing.Point]]) -> list[drawing.Panel]:
    """Who unpacks the same gzip layers; then what other compressions change, if there are some."""
    ours = next(iter(lines), "")
    forms = [name for name in lines if name.startswith(f"{ours}, ")]
    panels = [[name for name in lines if name not in forms], [ours, *forms] if forms else []]
    labels = ("seconds, registry to ready root file system", f"the same, by {ours}")
    return [
        drawing.Panel(label, [drawing.Line(name, lines[name]) for name in names])
        for label, names in zip(labels, panels, strict=True)
        if names
    ]


def _stages(rows: Rows) -> Chart | None:
    """How long each stage was busy, and what each step costs alone."""
    bars: dict[str, Mapping[str, float]] = {}
    for part, row in rows:
        if part.benchmark in ("layers", "unpack") and _is_cut(row) and (stages := _figures(row, (*STAGES, _TOGETHER))):
            name = str(row.labels["series"])
            if part.benchmark == "unpack" or row.labels["layers"] == _fewest(part):
                bars.setdefault(f"{name}: busy, in {row.median_seconds or 0.0:.1f} s", stages)
    for part, row in rows:
        if part.benchmark == "limit" and row.name == "limit":
            bars["each step alone: CPU-seconds"] = {
                step: sum(row.figure(name) or 0.0 for name in names) for step, names in _STEPS.items()
            }
    if not bars:
        return None
    method = (
        "Busy seconds of each stage, of the image in the fewest layers, as imagedist pull --json tells them: but for "
        "serial, stages run at the same time, so together they exceed the pull's own time, which stands beside each "
        "name. hash is SHA-256 of blob and tar, stage is writing the tar to the ramdisk; in results of older versions "
        "decode is inflating and these two. The last bar is CPU time of each step run alone (imagedist-bench limit): "
        "curl and registry, isal, SHA-256, writing the tars, GNU tar."
    )
    shown = [stage for stage in (*STAGES, _TOGETHER) if any(stage in bar for bar in bars.values())]
    return Chart("stages", "Where the time goes", method, drawing.stacked(bars, shown, "seconds"))


def _pull(rows: Rows) -> Chart | None:
    pulls = [(part, row) for part, row in rows if part.benchmark == "pull"]
    pulls = pulls or [(part, row) for part, row in rows if part.benchmark == "unpack"]
    pulls = [(part, row) for part, row in pulls if part is pulls[0][0]]  # others' bars would cover these
    if not any(row.runs for _, row in pulls):
        return None
    part = pulls[0][0]
    bars = [
        drawing.Bar(row.name, row.median_seconds, row.seconds, _costs(row), _is_ours(row.name))
        for _, row in pulls
        if row.runs
    ]
    notes = [f"not run: {row.name}: {row.not_run}" for _, row in pulls if row.not_run]
    method = (
        f"{_image(part)}, pulled once into an empty store on {_where(part)}; medians of "
        f"{part.settings.get('rounds', '?')} cold runs, bars their range. Beside each: CPU-seconds, most memory "
        "(anonymous, and the ramdisk), and megabytes on the disk, of the node. imagedist: `imagedist pull` by itself; "
        "agent: the same through this node's agent and site; cri: kubelet's pull by containerd's overlayfs "
        "snapshotter, cri-imagedist: by imagedist's, soci: by SOCI's in its parallel mode. "
        "Through imagedist: the site and the agent run on the same CPUs, "
        "and keep a blob each; the site's CPU time is not the node's, and stands in the table. The first of several "
        "results is drawn."
    )
    return Chart("pull", "One image onto this machine", method, drawing.bars(bars, "seconds"), notes)


def _is_cut(row: Contestant) -> bool:
    """Whether its labels say who pulled how many layers."""
    return "series" in row.labels and isinstance(row.labels.get("layers"), int)


def _is_ours(name: str) -> bool:
    return name == "agent" or "imagedist" in name


def _costs(row: Contestant) -> str:
    cpu, memory, disk = costs(row)
    return f"{cpu:.1f} CPU-s, {memory / 1e6:.0f} MB, {disk / 1e6:.0f} MB disk"


def _figures(row: Contestant, stages: Sequence[str]) -> dict[str, float]:
    found = {stage: row.figure(f"{stage}_seconds") for stage in stages}
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def _fewest(part: Result) -> int:
    """Of many layers, some wait for their bytes and for decoded ones, and that counts as busy."""
    return min(int(row.labels["layers"]) for row in part.contestants if _is_cut(row))


def _image(part: Result) -> str:
    return f"Image {part.image.name}, {part.image.compressed_bytes / 1e6:.0f} MB compressed"


def _where(part: Result) -> str:
    synced = ", until syncfs returned" if "syncfs" in part.settings.get("stores", "") else ""
    return f"{part.machine.store_file_system.split()[0]}{synced}"
