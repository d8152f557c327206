"""Chart 1: nodes that want a new image at once: from the registry, by imagedist, by peers; measured, then simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import drawing
from bench.bursts import BY_IMAGEDIST, SIMULATED, seconds_of
from bench.drawing import Drawn, Line, Panel, Point
from bench.result import Contestant, Result

_LEAST_COPIES = 0.1
"""Less is heartbeats: a site past which everybody reads sends no image."""
_OF_OTHERS = ("p50", "max")
"""Nodes that share the registry's line end together: p99 would lie on the last one. Of Kraken's, lines enough."""


@dataclass(frozen=True, slots=True)
class Distribution:
    drawn: Drawn
    method: str


def distribution(rows: Sequence[tuple[Result, Contestant]]) -> Distribution | None:
    """None: there is no such row with figures."""
    times: dict[tuple[str, str, bool], list[Point]] = {}
    sent: dict[tuple[str, str, bool], list[Point]] = {}
    for part, row in rows:
        is_simulated, series = part.benchmark == SIMULATED, str(row.labels.get("series", row.name))
        nodes = float(row.labels["nodes"])
        for name, seconds in seconds_of(row).items():
            if series != BY_IMAGEDIST and name not in _OF_OTHERS:
                continue
            times.setdefault((series, name, is_simulated), []).append(Point(nodes, seconds, seconds, seconds))
        for title in ("site sent", "upstream sent"):
            copies = row.summary.get(title)
            if copies is not None and copies >= _LEAST_COPIES:
                sent.setdefault((series, title, is_simulated), []).append(Point(nodes, copies, copies, copies))
    if not times:
        return None
    panels = [Panel("seconds until a node has the whole image", _lines(times))]
    if sent:
        panels.append(Panel("copies of the image that were sent", _lines(sent)))
    measured = [part for part, _ in rows if part.benchmark != SIMULATED]
    simulated = [part for part, _ in rows if part.benchmark == SIMULATED]
    drawn = drawing.panels(panels, "nodes that ask at once", continued="hollow, thin: simulated")
    return Distribution(drawn, _method(measured, simulated))


def _lines(found: Mapping[tuple[str, str, bool], Sequence[Point]]) -> list[Line]:
    return [Line(f"{series}, {name}", points, is_simulated) for (series, name, is_simulated), points in found.items()]


def _method(measured: Sequence[Result], simulated: Sequence[Result]) -> str:
    said = []
    if measured:
        part = measured[0]
        said.append(
            f"Filled markers: measured in network namespaces of one machine, {part.settings.get('registry', '')}; "
            f"an image of {part.image.compressed_bytes / 1e6:.0f} MB that nobody in the site has, asked for by all "
            f"nodes at once; {part.settings.get('rounds', '?')} bursts of each, times of all nodes and bursts "
            "together. Straight: every node reads from the registry, over the site's uplink. Kraken: the same by its "
            "agents, origin and tracker, after imagedist's bursts. Bytes as the links count them, headers in them."
        )
    if simulated:
        said.append(
            "Hollow markers: not measured but simulated (imagedist-bench simulate), with the same links; how far the "
            "simulator is off where both exist is in its own table."
        )
    return " ".join(said)
