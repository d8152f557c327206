"""What a benchmark reports of repeated runs: medians and spreads, never a best case."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """One way of doing the job. A peer that cannot run says why, and has no figures."""

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    not_run: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: above a third the machine was not quiet."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds) if self.seconds else 0.0


class Result(BaseModel):
    """A finished benchmark, as written to ``--json``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    benchmark: str
    machine: dict[str, str]
    image: dict[str, int | str]
    settings: dict[str, str]
    rows: tuple[Row, ...]

    @property
    def is_noisy(self) -> bool:
        return any(row.spread > 1 / 3 for row in self.rows)


def machine() -> dict[str, str]:
    """What figures depend on."""
    return {
        "cpus": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": _processor(),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def ratio(rows: Sequence[Row], row: Row) -> float | None:
    """How many times faster than the slowest row."""
    medians = [other.median for other in rows if other.median is not None]
    return max(medians) / row.median if row.median else None
