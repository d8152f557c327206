"""What a report begins with: the figures that a user decides by, in sentences, and which aims are met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.bursts import BY_IMAGEDIST, KRAKEN, SIMULATED, STRAIGHT, seconds_of
from bench.result import Contestant, Result

_OURS = "imagedist"


def headlines(results: Sequence[Result]) -> list[str]:
    """One for each thing that was measured; none without figures."""
    parts = [part for result in results for part in result.benchmarks]
    found: list[str] = []
    for part in parts:
        if part.benchmark in ("swarm", SIMULATED):
            found += _distributed(part)
        elif part.benchmark in ("pull", "unpack"):
            found += _pulled(part)
    return found


def aims(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: every figure that a number was aimed at for, and whether it is met."""
    rows = [
        [f"{part.benchmark}: {one.what}", f"{one.value:.2f} {one.unit}", one.aim, "met" if one.is_met else "MISSED"]
        for result in results
        for part in result.benchmarks
        for one in part.verdicts
        if one.is_met is not None
    ]
    return ["", "MEASURED", "AIM", ""], rows


def _distributed(part: Result) -> Iterator[str]:
    """Of the most nodes."""
    ours, straight = _largest(part, BY_IMAGEDIST), _largest(part, STRAIGHT)
    if ours is None:
        return
    times, nodes = seconds_of(ours), int(ours.labels["nodes"])
    simulated = ", simulated" if part.benchmark == SIMULATED else ""
    said = (
        f"{nodes} node{'' if nodes == 1 else 's'}{simulated}: half had a new image of "
        f"{part.image.compressed_bytes / 1e6:.0f} MB in {times['p50']:.1f} s, all in {times['max']:.1f} s"
    )
    others = {STRAIGHT: straight, f"by {KRAKEN}": _largest(part, KRAKEN)}
    beside = [
        f"{name}: {seconds_of(row)['max']:.1f} s"
        for name, row in others.items()
        if row is not None and row.labels["nodes"] == nodes
    ]
    if beside:
        said += f" ({', '.join(beside)})"
    if "upstream sent" in ours.summary and "site sent" in ours.summary:
        is_beside = straight is not None and straight.labels["nodes"] == nodes
        instead = straight.summary.get("upstream sent") if straight is not None and is_beside else None
        said += (
            f". The registry sent {ours.summary['upstream sent']:.2f} copies"
            f"{f' instead of {instead:.0f}' if instead is not None else ''}, the site {ours.summary['site sent']:.1f}"
        )
    if "CPU-s a node" in ours.summary and "MB an agent" in ours.summary:
        said += (
            f". A node's cost: {ours.summary['CPU-s a node']:.2f} CPU-seconds, {ours.summary['MB an agent']:.0f} MB "
            f"of memory, {part.image.compressed_bytes / 1e6:.0f} MB on its disk, not unpacked"
        )
    yield f"{said}."


def _largest(part: Result, series: str) -> Contestant | None:
    """Of those rows of which every node had the image in the end."""
    rows = [
        row
        for row in part.contestants
        if row.labels.get("series") == series
        and isinstance(row.labels.get("nodes"), int)
        and seconds_of(row).keys() >= {"p50", "max"}
    ]
    return max(rows, key=lambda row: int(row.labels["nodes"]), default=None)


def _pulled(part: Result) -> Iterator[str]:
    ours = part.contestant(_OURS)
    if ours is None or ours.median_seconds is None:
        return
    cpu, memory, disk = costs(ours)
    cost = f"{cpu:.1f} CPU-seconds, {memory / 1e6:.0f} MB of memory, {disk / 1e6:.0f} MB on the disk"
    others = "; ".join(f"{one.slower} {one.median:.1f} ({one.low:.1f} to {one.high:.1f})" for one in part.comparisons)
    yield (
        f"One node had image {part.image.name} ({part.image.compressed_bytes / 1e6:.0f} MB) ready by {_OURS} pull in "
        f"{ours.median_seconds:.1f} s, for {cost}{f'. Times as long took: {others}' if others else ''}."
    )


def costs(row: Contestant) -> tuple[float, float, float]:
    """CPU-seconds, most bytes of memory, and bytes on the disk: medians."""
    cpu, memory = row.median_cost("cpu_seconds") or 0.0, row.median_cost("memory_bytes") or 0.0
    return cpu, memory, row.median_cost("written_bytes") or row.median_cost("stored_bytes") or 0.0
