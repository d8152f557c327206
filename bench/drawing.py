"""Pictures by matplotlib, which only this file imports; lines differ by marker and dash, for black and white."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00", "#666666")
"""Okabe and Ito's, for those who see fewer colours; the light yellow is darker."""
_MARKERS = "osD^vP*X<>hp"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 3)), (0, (3, 1, 1, 1, 1, 1)))
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
_LONGEST = 48
"""Characters of a name; the tables have all of it."""
_APART = 1.025
"""From one line's points to the next one's, on a logarithmic axis."""
_SETTINGS: Any = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "imagedist-bench",  # the same figures, the same file
    "legend.frameon": False,
    "text.parse_math": False,  # names are whatever results say
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture twice."""

    png: bytes
    svg: bytes


@dataclass(frozen=True, slots=True)
class Point:
    """A figure with its range."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points that a line joins.

    Attributes:
        is_continued: the line of that name goes on, but is not measured: hollow markers, a thin line.
    """

    name: str
    points: Sequence[Point]
    is_continued: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A row's median, its runs and what it cost; ours are hatched."""

    name: str
    value: float | None
    runs: Sequence[float]
    note: str
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several pictures beside each other that share their x axis."""

    y_label: str
    lines: Sequence[Line]


def panels(each: Sequence[Panel], x_label: str, continued: str = "") -> Drawn:
    """Panels with logarithmic axes; lines of one name look the same in all.

    Args:
        continued: what hollow markers are, for the legend.
    """
    names = list(dict.fromkeys(line.name for panel in each for line in panel.lines))
    looks = dict(zip(names, _looks(), strict=False))
    with _figure(len(each), 4.6) as (figure, axes):
        for panel, one in zip(each, axes, strict=True):
            of_panel = list(dict.fromkeys(line.name for line in panel.lines))
            for line in panel.lines:
                beside = of_panel.index(line.name) - (len(of_panel) - 1) / 2
                _draw(one, line, looks[line.name], _APART**beside)
            _scale(one, [point for line in panel.lines for point in line.points])
            one.set_xlabel(x_label)
            one.set_ylabel(_short(panel.y_label))
            _legend(one, continued if any(line.is_continued for line in panel.lines) else "", len(each))
        return _drawn(figure)


def _legend(axes: Axes, continued: str, panels: int) -> None:
    """Each name once, with a measured line's look where there is one."""
    handles, names = axes.get_legend_handles_labels()
    shown = dict(zip(names[::-1], handles[::-1], strict=True))
    if continued:
        shown[continued] = Line2D([], [], color="#000000", marker="o", markerfacecolor="white", linewidth=0.8)
    axes.legend(
        [shown[name] for name in dict.fromkeys([*names, *shown])],
        list(dict.fromkeys([*names, *shown])),
        fontsize=7,
        ncols=4 if panels == 1 else 2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
    )


def _draw(axes: Axes, line: Line, look: Mapping[str, Any], aside: float) -> None:
    """``aside``: the points' x times that, so that bars of ranges do not hide each other."""
    points = sorted(line.points, key=lambda point: point.x)
    below = [max(point.y - point.low, 0.0) for point in points]
    above = [max(point.high - point.y, 0.0) for point in points]
    axes.errorbar(
        [point.x * aside for point in points],
        [point.y for point in points],
        yerr=[below, above],
        label=_short(line.name),
        capsize=2,
        linewidth=0.8 if line.is_continued else 1.4,
        markersize=6,
        markerfacecolor="white" if line.is_continued else look["color"],
        zorder=2 if line.is_continued else 3,  # where both are, the measured one is seen
        **look,
    )


def _short(name: str) -> str:
    """matplotlib leaves names out of a legend that begin with an underscore."""
    cut = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return f" {cut}" if cut.startswith("_") else cut


def _looks() -> Iterator[Mapping[str, Any]]:
    for colour, marker, dash in zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_DASHES), strict=False):
        yield {"color": colour, "marker": marker, "linestyle": dash}


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xscale("log", base=2)
    numbers = sorted({point.x for point in points})
    axes.set_xticks(numbers if len(numbers) <= 8 else numbers[:: len(numbers) // 6])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain)
    values = [value for point in points for value in (point.low, point.high) if value > 0]
    if values and max(values) > 8 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
        axes.tick_params(axis="y", which="minor", labelsize=7)
    else:
        axes.set_ylim(bottom=0)


def stacked(rows: Mapping[str, Mapping[str, float]], parts: Sequence[str], x_label: str) -> Drawn:
    """A bar for each row, made of parts from left to right; the same part has the same hatch in all."""
    names = list(rows)[::-1]
    with _figure(1, 0.8 + 0.45 * len(rows)) as (figure, (axes,)):
        left = [0.0] * len(names)
        for part, hatch, colour in zip(parts, cycle(_HATCHES), cycle(_COLOURS[1:]), strict=False):
            widths = [rows[name].get(part, 0.0) for name in names]
            axes.barh(
                range(len(names)), widths, left=left, label=part, hatch=hatch, color=f"{colour}66", edgecolor="black"
            )
            left = [begun + width for begun, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_xlabel(x_label)
        axes.legend(fontsize=7, ncols=len(parts), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return _drawn(figure)


def bars(rows: Sequence[Bar], x_label: str) -> Drawn:
    """A bar for each row, with the range of its runs and a note at its end."""
    shown = [row for row in rows if row.value is not None][::-1]
    with _figure(1, 0.8 + 0.35 * len(shown)) as (figure, (axes,)):
        for place, row in enumerate(shown):
            value = row.value or 0.0
            ends = [[max(value - min(row.runs), 0.0)], [max(max(row.runs) - value, 0.0)]]
            hatch = "///" if row.is_ours else ""
            axes.barh(place, value, xerr=ends, color="#cccccc", edgecolor="black", hatch=hatch, capsize=2)
            axes.annotate(f" {value:.1f} s; {row.note}", (max(row.runs), place), fontsize=7, va="center")
        axes.set_yticks(range(len(shown)), [_short(row.name) for row in shown])
        axes.set_xlim(right=1.8 * max((max(row.runs) for row in shown), default=1.0))
        axes.set_xlabel(x_label)
        return _drawn(figure)


@contextmanager
def _figure(count: int, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = pyplot.subplots(1, count, figsize=(7.2 if count == 1 else 5.2 * count, height), squeeze=False)
        try:
            yield figure, list(axes[0])
        finally:
            pyplot.close(figure)


def _drawn(figure: Figure) -> Drawn:
    pictures = []
    for kind, nobody in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        output = io.BytesIO()
        with warnings.catch_warnings():  # a box stands for a character that the font has not
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(output, format=kind, dpi=130, bbox_inches="tight", metadata=nobody)
        pictures.append(output.getvalue())
    return Drawn(*pictures)
