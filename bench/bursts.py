"""Rows of N nodes at once, measured or simulated: what labels they have, and the times of their nodes."""

from __future__ import annotations

from collections.abc import Mapping

from bench.result import Contestant
from bench.statistics import percentile

STRAIGHT, BY_IMAGEDIST, KRAKEN = "straight from the registry", "by imagedist", "Kraken"
"""Their ``series``; beside it a row has ``nodes``."""
SIMULATED = "simulate"
"""The benchmark whose rows continue the measured ones."""
PERCENTS = {"p50": 50.0, "p99": 99.0, "max": 100.0}


def seconds_of(row: Contestant) -> Mapping[str, float]:
    """Percentiles over the nodes of all runs, or as the row's summary has them (``p50 s``)."""
    told = {name: row.summary[f"{name} s"] for name in PERCENTS if f"{name} s" in row.summary}
    pooled = [
        seconds
        for run in row.runs
        for name, seconds in run.figures.items()
        if name.startswith("node_") and name.endswith("_seconds")
    ]
    return told or ({name: percentile(pooled, percent) for name, percent in PERCENTS.items()} if pooled else {})
